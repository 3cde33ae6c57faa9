package pillion;

import java.io.IOException;
import java.io.InputStream;
import java.lang.instrument.ClassFileTransformer;
import java.lang.instrument.Instrumentation;
import java.lang.invoke.MethodHandles;
import java.security.ProtectionDomain;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ThreadPoolExecutor;

/** Puts the hooks beside the executors and has the classes below call them. */
final class Install implements ClassFileTransformer {
    private static final String HOOKS = "java/util/concurrent/PillionToken";
    /** In the order in which they can be defined. */
    private static final String[] PARTS = {"PillionToken$Note", "PillionToken$Key", "PillionToken$Probe", "PillionToken"};

    /** What is changed, by class. All changes of a class are made or none: a class of another shape stays as it is. */
    private final Map<String, List<Change>> changes = new LinkedHashMap<>();

    /** A change of one method. */
    private interface Change {
        boolean make(ClassFile file);
    }

    static void into(Instrumentation instrumentation) throws Exception {
        Module base = Object.class.getModule();
        open(instrumentation, base, "java.util.concurrent", Install.class.getModule());
        MethodHandles.Lookup beside = MethodHandles.privateLookupIn(ThreadPoolExecutor.class, MethodHandles.lookup());
        Class<?> hooks = null;
        for (String part : PARTS) hooks = beside.defineClass(resource("/hooks/" + part + ".bin"));
        Install install = new Install();
        install.executors((boolean) invoke(hooks, "canFire"));
        if ((boolean) invoke(hooks, "canServe")) install.server();
        install.clients();
        ModuleLayer.boot().findModule("java.net.http").ifPresent(module -> {
            open(instrumentation, module, "jdk.internal.net.http", base);
            open(instrumentation, module, "jdk.internal.net.http.common", base);
        });
        instrumentation.addTransformer(install, true);
        for (Class<?> loaded : instrumentation.getAllLoadedClasses()) {
            if (install.changes.containsKey(loaded.getName().replace('.', '/'))) retransform(instrumentation, loaded);
        }
    }

    private static void retransform(Instrumentation instrumentation, Class<?> loaded) {
        try {
            instrumentation.retransformClasses(loaded);
        } catch (Throwable refused) {
            // It stays as it is: links are missing, nothing else.
        }
    }

    private static Object invoke(Class<?> hooks, String method) throws Exception {
        return hooks.getMethod(method).invoke(null);
    }

    private static void open(Instrumentation instrumentation, Module module, String name, Module to) {
        instrumentation.redefineModule(module, Set.of(), Map.of(), Map.of(name, Set.of(to)), Set.of(), Map.of());
    }

    private static byte[] resource(String name) throws IOException {
        try (InputStream stream = Install.class.getResourceAsStream(name)) {
            return stream.readAllBytes();
        }
    }

    /** Who hands a task over, and who runs it. */
    private void executors(boolean canFire) {
        enter("java/util/concurrent/ThreadPoolExecutor", "execute", "(Ljava/lang/Runnable;)V", 1, "submitted");
        redirect("java/util/concurrent/ThreadPoolExecutor", "runWorker", "run", "()V", "(Ljava/lang/Runnable;)V");
        enter("java/util/concurrent/ScheduledThreadPoolExecutor", "delayedExecute",
                "(Ljava/util/concurrent/RunnableScheduledFuture;)V", 1, "scheduled");
        leave("java/util/concurrent/ForkJoinTask", "<init>", "()V", "made");
        redirect("java/util/concurrent/ForkJoinTask", "doExec", "exec", "()Z", "(Ljava/util/concurrent/ForkJoinTask;)Z");
        for (String task : List.of("AsyncRun", "AsyncSupply")) {
            enter("java/util/concurrent/CompletableFuture$" + task, "run", "()V", 0, "begin");
            leave("java/util/concurrent/CompletableFuture$" + task, "run", "()V", "end");
        }
        // A virtual thread lives for one task.
        enter("java/lang/VirtualThread", "start", "(Ljdk/internal/vm/ThreadContainer;)V", 0, "started");
        if (!canFire) return;
        String future = "Ljava/util/concurrent/CompletableFuture;";
        for (String owner : List.of("java/util/concurrent/CompletableFuture", "java/util/concurrent/CompletableFuture$Completion")) {
            redirect(owner, null, "tryFire", "(I)" + future, "(Ljava/lang/Object;I)" + future);
        }
    }

    private void server() {
        redirect("com/sun/net/httpserver/Filter$Chain", "doFilter", "handle", "(Lcom/sun/net/httpserver/HttpExchange;)V",
                "(Ljava/lang/Object;Ljava/lang/Object;)V");
    }

    private void clients() {
        enter("sun/net/www/protocol/http/HttpURLConnection", "writeRequests", "()V", 0, "writing");
        leave("jdk/internal/net/http/HttpRequestImpl", "<init>", "(Ljava/net/http/HttpRequest;Ljava/net/ProxySelector;)V", "requested");
        for (String servlet : List.of("javax/servlet", "jakarta/servlet")) {
            String service = "(L" + servlet + "/ServletRequest;L" + servlet + "/ServletResponse;)V";
            enter(servlet + "/http/HttpServlet", "service", service, 1, "serving");
            leave(servlet + "/http/HttpServlet", "service", service, "served");
        }
    }

    private void enter(String owner, String method, String descriptor, int argument, String hook) {
        add(owner, file -> file.enter(method, descriptor, argument, HOOKS, hook));
    }

    private void leave(String owner, String method, String descriptor, String hook) {
        add(owner, file -> file.leave(method, descriptor, HOOKS, hook));
    }

    private void redirect(String owner, String method, String name, String descriptor, String hook) {
        add(owner, file -> file.redirect(method, name, descriptor, HOOKS, hook));
    }

    private void add(String owner, Change change) {
        changes.computeIfAbsent(owner, name -> new ArrayList<>()).add(change);
    }

    @Override
    public byte[] transform(ClassLoader loader, String name, Class<?> loaded, ProtectionDomain domain, byte[] bytes) {
        List<Change> wanted = name == null ? null : changes.get(name);
        if (wanted == null) return null;
        try {
            ClassFile file = new ClassFile(bytes);
            for (Change change : wanted) {
                if (!change.make(file)) return null;
            }
            return file.bytes();
        } catch (Throwable failure) {
            return null;
        }
    }
}
