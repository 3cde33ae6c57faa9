import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;

/**
 * The JDK's own server and clients. SERVER: threads | pool | virtual | async, where the threads that read requests make
 * everybody's calls. CLIENT: connection | client.
 */
public final class App {
    static final String BACKEND = System.getenv("BACKEND");
    static final boolean FRESH = "fresh".equals(System.getenv("OUT"));
    static final boolean FETCH = "client".equals(System.getenv("CLIENT"));
    static final Map<String, Integer> CALLS =
            Map.of("one", 1, "seq2", 2, "par2", 2, "fan8", 8, "sleep", 2, "executor", 1, "saturated", 2, "retry", 1, "late", 1);
    static final HttpClient CLIENT = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    static final ExecutorService POOL = Executors.newFixedThreadPool(16);
    static final Semaphore FEW = new Semaphore(4);
    static final boolean ASYNC = "async".equals(System.getenv("SERVER"));
    static volatile boolean jobs;

    public static void main(String[] args) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(System.getenv("PORT"))), 512);
        server.setExecutor(executor());
        server.createContext("/", App::handle);
        Thread background = new Thread(App::background);
        background.setDaemon(true);
        background.start();
        server.start();
    }

    static ExecutorService executor() throws Exception {
        String kind = System.getenv().getOrDefault("SERVER", "threads");
        switch (kind) {
            case "async":
                return POOL;
            case "pool":
                return Executors.newFixedThreadPool(32);
            case "virtual":
                return (ExecutorService) Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
            default:
                return Executors.newCachedThreadPool();
        }
    }

    static int call(String path) {
        try {
            if (FETCH) {
                HttpRequest request = HttpRequest.newBuilder(URI.create(BACKEND + path)).build();
                return CLIENT.sendAsync(request, HttpResponse.BodyHandlers.ofString()).get().statusCode();
            }
            HttpURLConnection connection = (HttpURLConnection) URI.create(BACKEND + path).toURL().openConnection();
            if (FRESH) connection.setRequestProperty("Connection", "close");
            int status = connection.getResponseCode();
            try (InputStream body = status < 400 ? connection.getInputStream() : connection.getErrorStream()) {
                if (body != null) body.readAllBytes();
            }
            return status;
        } catch (Exception error) {
            return 0;
        }
    }

    static void handle(HttpExchange exchange) throws IOException {
        String[] parts = exchange.getRequestURI().getPath().substring(1).split("/");
        try {
            if (parts[0].equals("jobs")) {
                jobs = parts[1].equals("on");
            } else {
                List<String> paths = paths(parts[0], parts[1], "ids=kept".equals(exchange.getRequestURI().getQuery()));
                if (parts[0].equals("late")) {
                    answer(exchange);
                    Thread.sleep(2);
                    call(paths.get(0));
                    return;
                }
                if (ASYNC) {
                    serveLater(parts[0], paths, exchange);
                    return;
                }
                serve(parts[0], paths);
            }
        } catch (Exception error) {
            throw new IOException(error);
        }
        answer(exchange);
    }

    /** Leaves the calls, and the answer, to whichever threads are free. */
    static void serveLater(String pattern, List<String> paths, HttpExchange exchange) {
        boolean atOnce = pattern.equals("par2") || pattern.equals("fan8");
        CompletableFuture<?> all = CompletableFuture.completedFuture(0);
        for (String path : paths) {
            CompletableFuture<?> before = all;
            all = atOnce
                    ? CompletableFuture.supplyAsync(() -> call(path), POOL).thenCombine(before, (status, others) -> status)
                    : before.thenApplyAsync(others -> call(path), POOL);
        }
        all.thenAccept(status -> {
            try {
                answer(exchange);
            } catch (IOException error) {
                exchange.close();
            }
        });
    }

    static void answer(HttpExchange exchange) throws IOException {
        exchange.sendResponseHeaders(200, 2);
        exchange.getResponseBody().write("ok".getBytes(StandardCharsets.US_ASCII));
        exchange.close();
    }

    static void serve(String pattern, List<String> paths) throws Exception {
        switch (pattern) {
            case "retry":
                while (call(paths.get(0)) == 503) {}
                break;
            case "par2":
            case "fan8":
            case "executor":
                List<Future<?>> calls = new ArrayList<>();
                for (String path : paths) calls.add(POOL.submit(() -> call(path)));
                for (Future<?> call : calls) call.get();
                break;
            default:
                for (String path : paths) {
                    if (pattern.equals("sleep")) Thread.sleep(10);
                    if (pattern.equals("saturated")) FEW.acquire();
                    call(path);
                    if (pattern.equals("saturated")) FEW.release();
                }
        }
    }

    static List<String> paths(String pattern, String id, boolean kept) throws Exception {
        List<String> paths = new ArrayList<>();
        for (int index = 0; index < CALLS.get(pattern); index++) {
            byte[] hash = MessageDigest.getInstance("SHA-256").digest((id + ":" + index).getBytes(StandardCharsets.US_ASCII));
            StringBuilder digest = new StringBuilder();
            for (int at = 0; at < 16; at++) digest.append(String.format("%02x", hash[at]));
            String place = pattern.equals("retry") ? "/flaky/" : "/call/";
            paths.add(kept ? "/call/" + id + "/" + index : place + digest);
        }
        return paths;
    }

    static void background() {
        for (int number = 0; ; number++) {
            try {
                Thread.sleep(5);
            } catch (InterruptedException end) {
                return;
            }
            if (jobs) call("/background/" + number);
        }
    }
}
