package pillion;

import java.lang.instrument.Instrumentation;

/**
 * Start-up shim of Pillion for Java 11 and later: <code>JAVA_TOOL_OPTIONS=-javaagent:pillion.jar</code>.
 *
 * <p>Carries the header <code>pillion-token</code> from a request that this program serves to the plain http:// calls made
 * on its behalf, through executors and futures. It reads, keeps and sends nothing else. Whatever fails in here leaves the
 * program as it would be without it; on Java 8 it does nothing.
 */
public final class Agent {
    private Agent() {}

    /** The virtual machine calls it before the program's main. */
    public static void premain(String arguments, Instrumentation instrumentation) {
        try {
            Install.into(instrumentation);
        } catch (Throwable failure) {
            // The program runs without it. A virtual machine too old for Install says so here.
        }
    }
}
