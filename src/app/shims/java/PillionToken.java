package java.util.concurrent;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.ref.Reference;
import java.lang.ref.ReferenceQueue;
import java.lang.ref.WeakReference;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.net.URI;
import java.net.URLConnection;

/**
 * The hooks that the changed classes call: which token a thread works with, and which one a task was handed over with.
 *
 * <p>Defined beside the executors, because only from there their tasks can be run. Nothing thrown in here leaves it but
 * what the program's own code throws. A task that two requests have handed over and that has not run yet has no token.
 */
public final class PillionToken {
    private static final String HEADER = "pillion-token";
    /** Explicitly none: a virtual thread falls back to what it was started with only as long as nothing was said. */
    private static final String NONE = "";
    private static final ThreadLocal<String> CURRENT = new ThreadLocal<>();
    /** By identity of the task, as long as the task lives. */
    private static final ConcurrentHashMap<Object, Note> NOTES = new ConcurrentHashMap<>();
    static final ReferenceQueue<Object> GONE = new ReferenceQueue<>();
    private static final MethodHandle FIRE = fire();
    private static final MethodHandle HANDLE = server("HttpHandler", "handle", void.class, "HttpExchange");
    private static final MethodHandle HEADERS = headers();
    /** No request has brought a token yet. */
    private static volatile boolean idle = true;

    private PillionToken() {}

    /** What a task was handed over with. */
    private static final class Note {
        String token;
        /** What the thread worked with before it ran this. */
        String before = NONE;
        private int pending = 1;

        Note(String token) {
            this.token = token;
        }

        synchronized void again(String other) {
            pending++;
            if (!same(token, other)) token = null;
        }

        /** It is run for the last time that is known of. */
        synchronized boolean isLast() {
            return --pending <= 0;
        }

        synchronized String token() {
            return token;
        }
    }

    /** A task that this must not keep alive. */
    private static final class Key extends WeakReference<Object> {
        private final int hash;

        Key(Object task) {
            super(task, GONE);
            hash = System.identityHashCode(task);
        }

        @Override
        public int hashCode() {
            return hash;
        }

        @Override
        public boolean equals(Object other) {
            if (this == other) return true;
            Object task = get();
            return task != null && other instanceof Key && ((Key) other).get() == task;
        }
    }

    /** Finds a key. */
    private static final class Probe {
        private final Object task;

        Probe(Object task) {
            this.task = task;
        }

        @Override
        public int hashCode() {
            return System.identityHashCode(task);
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Key && ((Key) other).get() == task;
        }
    }

    /** Futures can be followed in this version of Java. */
    public static boolean canFire() {
        return FIRE != null;
    }

    /** The server of the JDK is there and can be followed. */
    public static boolean canServe() {
        return HANDLE != null && HEADERS != null;
    }

    // Handing over.

    /** A pool gets a task. */
    public static void submitted(Object task) {
        // Tasks of this kind carry what they were made with.
        if (idle || task == null || task instanceof ForkJoinTask) return;
        try {
            note(task, current());
        } catch (Throwable failure) {
            // It has no token.
        }
    }

    /** A pool gets a task for later. What recurs belongs to no request. */
    public static void scheduled(Object task) {
        if (idle || task == null) return;
        try {
            boolean recurs = task instanceof RunnableScheduledFuture && ((RunnableScheduledFuture<?>) task).isPeriodic();
            note(task, recurs ? null : current());
        } catch (Throwable failure) {
            // It has no token.
        }
    }

    /** A task that forks, or a stage of a future, was made. */
    public static void made(Object task) {
        started(task);
    }

    /** A virtual thread was started. */
    public static void started(Object thread) {
        if (idle) return;
        try {
            String token = current();
            if (token != null) note(thread, token);
        } catch (Throwable failure) {
            // It has no token.
        }
    }

    private static void note(Object task, String token) {
        for (Reference<?> gone = GONE.poll(); gone != null; gone = GONE.poll()) NOTES.remove(gone);
        Note held = NOTES.putIfAbsent(new Key(task), new Note(token));
        if (held != null) held.again(token);
    }

    // Running.

    /** Runs a pool's task. */
    public static void run(Runnable task) {
        if (idle) {
            task.run();
            return;
        }
        String before = enter(taken(task));
        try {
            task.run();
        } finally {
            leave(before);
        }
    }

    /** Runs a task that forks. */
    public static boolean exec(ForkJoinTask<?> task) {
        if (idle) return task.exec();
        String before = enter(noted(task));
        try {
            return task.exec();
        } finally {
            leave(before);
        }
    }

    /** Runs a stage of a future. */
    public static CompletableFuture<?> tryFire(Object stage, int mode) throws Throwable {
        if (idle) return (CompletableFuture<?>) FIRE.invokeExact(stage, mode);
        String before = enter(noted(stage));
        try {
            return (CompletableFuture<?>) FIRE.invokeExact(stage, mode);
        } finally {
            leave(before);
        }
    }

    /** A task of a future begins, in whatever executor. */
    public static void begin(Object task) {
        if (idle) return;
        try {
            Note note = NOTES.get(new Probe(task));
            if (note != null) note.before = enter(note.token());
        } catch (Throwable failure) {
            // It has no token.
        }
    }

    /** It has ended. */
    public static void end(Object task) {
        if (idle) return;
        try {
            Note note = NOTES.get(new Probe(task));
            if (note != null) leave(note.before);
        } catch (Throwable failure) {
            // The next one says anew.
        }
    }

    private static String noted(Object task) {
        try {
            Note note = NOTES.get(new Probe(task));
            return note == null ? null : note.token();
        } catch (Throwable failure) {
            return null;
        }
    }

    private static String taken(Object task) {
        if (task instanceof ForkJoinTask) return noted(task);
        try {
            Probe probe = new Probe(task);
            Note note = NOTES.get(probe);
            if (note == null) return null;
            String token = note.token();
            if (note.isLast()) NOTES.remove(probe, note);
            return token;
        } catch (Throwable failure) {
            return null;
        }
    }

    // The thread.

    private static String current() {
        String token = CURRENT.get();
        if (token == null) return noted(Thread.currentThread());
        return token.isEmpty() ? null : token;
    }

    private static String enter(String token) {
        try {
            String before = CURRENT.get();
            CURRENT.set(token == null ? NONE : token);
            return before;
        } catch (Throwable failure) {
            return NONE;
        }
    }

    private static void leave(String before) {
        try {
            if (before == null) CURRENT.remove();
            else CURRENT.set(before);
        } catch (Throwable failure) {
            // The next one says anew.
        }
    }

    static boolean same(String one, String other) {
        return one == null ? other == null : one.equals(other);
    }

    // Serving.

    /** Has the JDK's server serve a request. */
    public static void handle(Object handler, Object exchange) throws Throwable {
        String before = enter(header(exchange));
        try {
            HANDLE.invokeExact(handler, exchange);
        } finally {
            leave(before);
        }
    }

    private static String header(Object exchange) {
        try {
            return seen((String) HEADERS.invokeExact(exchange));
        } catch (Throwable failure) {
            return null;
        }
    }

    /** A servlet begins with a request. */
    public static void serving(Object request) {
        String token = null;
        try {
            Method header = servletRequest(request.getClass()).getMethod("getHeader", String.class);
            token = seen((String) header.invoke(request, HEADER));
        } catch (Throwable failure) {
            // It has no token.
        }
        enter(token);
    }

    /** A servlet has returned. */
    public static void served(Object servlet) {
        enter(null);
    }

    private static String seen(String token) {
        if (token != null && idle) idle = false;
        return token;
    }

    /** The interface through which anybody may ask. */
    private static Class<?> servletRequest(Class<?> type) throws ClassNotFoundException {
        for (Class<?> at = type; at != null; at = at.getSuperclass()) {
            for (Class<?> candidate : at.getInterfaces()) {
                if (candidate.getName().endsWith(".servlet.http.HttpServletRequest")) return candidate;
            }
        }
        throw new ClassNotFoundException();
    }

    // Calling: only what Pillion can read and take the token off again.

    /** A connection of java.net is about to write its head. */
    public static void writing(Object connection) {
        if (idle) return;
        try {
            String token = current();
            if (token == null || !((URLConnection) connection).getURL().getProtocol().equals("http")) return;
            put(connection, "requests", "set", token);
        } catch (Throwable failure) {
            // The call goes out without it.
        }
    }

    /** A request of java.net.http was made. */
    public static void requested(Object request) {
        if (idle) return;
        try {
            String token = current();
            if (token == null || !"http".equals(((URI) field(request, "uri")).getScheme())) return;
            put(request, "systemHeadersBuilder", "setHeader", token);
        } catch (Throwable failure) {
            // The call goes out without it.
        }
    }

    private static void put(Object owner, String field, String method, String token) throws ReflectiveOperationException {
        Object headers = field(owner, field);
        headers.getClass().getMethod(method, String.class, String.class).invoke(headers, HEADER, token);
    }

    private static Object field(Object owner, String name) throws ReflectiveOperationException {
        for (Class<?> type = owner.getClass(); type != null; type = type.getSuperclass()) {
            for (Field field : type.getDeclaredFields()) {
                if (!field.getName().equals(name)) continue;
                field.setAccessible(true);
                return field.get(owner);
            }
        }
        throw new NoSuchFieldException(name);
    }

    // What is run through handles, found once.

    private static MethodHandle fire() {
        try {
            Class<?> stage = Class.forName("java.util.concurrent.CompletableFuture$Completion");
            MethodType type = MethodType.methodType(CompletableFuture.class, int.class);
            MethodHandle handle = MethodHandles.lookup().findVirtual(stage, "tryFire", type);
            return handle.asType(MethodType.methodType(CompletableFuture.class, Object.class, int.class));
        } catch (Throwable failure) {
            return null;
        }
    }

    private static MethodHandle headers() {
        try {
            MethodHandle all = server("HttpExchange", "getRequestHeaders", server("Headers"));
            MethodType type = MethodType.methodType(String.class, String.class);
            MethodHandle first = MethodHandles.publicLookup().findVirtual(server("Headers"), "getFirst", type);
            first = MethodHandles.insertArguments(first, 1, HEADER);
            first = first.asType(MethodType.methodType(String.class, Object.class));
            return MethodHandles.filterReturnValue(all, first);
        } catch (Throwable failure) {
            return null;
        }
    }

    /** A method of the JDK's server that takes and gives plain objects; null where there is none. */
    private static MethodHandle server(String owner, String name, Class<?> answer, String... arguments) {
        try {
            MethodType type = MethodType.methodType(answer);
            for (String argument : arguments) type = type.appendParameterTypes(server(argument));
            return MethodHandles.publicLookup().findVirtual(server(owner), name, type)
                    .asType(type.insertParameterTypes(0, Object.class).erase());
        } catch (Throwable failure) {
            return null;
        }
    }

    private static Class<?> server(String name) throws ClassNotFoundException {
        return Class.forName("com.sun.net.httpserver." + name, false, ClassLoader.getSystemClassLoader());
    }
}
