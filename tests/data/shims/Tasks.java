import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/** A line for each request: its token, then the tokens of its calls by the way they were made. Requests overlap; every third has none. */
public final class Tasks {
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final ExecutorService POOL = Executors.newFixedThreadPool(3);
    static final ScheduledExecutorService LATER = Executors.newScheduledThreadPool(2);
    static int port;

    public static void main(String[] args) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 64);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/in", exchange -> answer(exchange, all()));
        server.createContext("/out", exchange -> answer(exchange, exchange.getRequestHeaders().getFirst("pillion-token")));
        server.start();
        port = server.getAddress().getPort();
        ExecutorService callers = Executors.newFixedThreadPool(6);
        List<Future<String>> lines = new ArrayList<>();
        for (int number = 0; number < 60; number++) {
            String token = number % 3 == 0 ? null : "t" + number;
            lines.add(callers.submit(() -> token + " " + CLIENT.send(request("/in", token), HttpResponse.BodyHandlers.ofString()).body()));
        }
        for (Future<String> line : lines) System.out.println(line.get());
        System.exit(0);
    }

    static HttpRequest request(String path, String token) {
        HttpRequest.Builder builder = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + port + path));
        if (token != null) builder.header("pillion-token", token);
        return builder.build();
    }

    static void answer(HttpExchange exchange, String text) throws IOException {
        byte[] body = String.valueOf(text).getBytes();
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }

    static String blocking() {
        try {
            return new String(URI.create("http://127.0.0.1:" + port + "/out").toURL().openConnection().getInputStream().readAllBytes());
        } catch (IOException error) {
            return error.toString();
        }
    }

    static CompletableFuture<String> async() {
        return CLIENT.sendAsync(request("/out", null), HttpResponse.BodyHandlers.ofString()).thenApply(HttpResponse::body);
    }

    static String all() {
        try {
            CompletableFuture<String> executed = new CompletableFuture<>();
            POOL.execute(() -> executed.complete(blocking()));
            return String.join(" ",
                    "here=" + blocking(),
                    "async=" + async().get(),
                    "composed=" + async().thenCompose(first -> async()).get(),
                    "submitted=" + POOL.submit(Tasks::blocking).get(),
                    "executed=" + executed.get(),
                    "later=" + LATER.schedule(Tasks::blocking, 3, TimeUnit.MILLISECONDS).get(),
                    "supplied=" + CompletableFuture.supplyAsync(Tasks::blocking).get(),
                    "applied=" + CompletableFuture.supplyAsync(Tasks::blocking, POOL).thenApplyAsync(first -> blocking()).get(),
                    "forked=" + ForkJoinPool.commonPool().submit(Tasks::blocking).get());
        } catch (Exception error) {
            return error.toString();
        }
    }
}
