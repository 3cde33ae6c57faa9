// A program that traces itself with Jaeger's client for Java. See ../apps/reports.md for what it is told and says.

import io.jaegertracing.internal.JaegerSpan;
import io.jaegertracing.internal.JaegerTracer;
import io.jaegertracing.internal.reporters.RemoteReporter;
import io.jaegertracing.internal.samplers.HttpSamplingManager;
import io.jaegertracing.internal.samplers.ProbabilisticSampler;
import io.jaegertracing.internal.samplers.RemoteControlledSampler;
import io.jaegertracing.thrift.internal.senders.UdpSender;
import io.opentracing.References;
import java.util.Map;

final class Reports {
  private static JaegerTracer tracer;

  public static void main(String[] arguments) throws Exception {
    Map<String, String> env = System.getenv();
    int rate = Integer.parseInt(env.get("RATE"));
    int seconds = Integer.parseInt(env.get("SECONDS"));
    String host = env.get("AGENT_HOST");
    String service = env.get("SERVICE");
    RemoteControlledSampler sampler =
        new RemoteControlledSampler.Builder(service)
            .withSamplingManager(new HttpSamplingManager(host + ":" + env.get("SAMPLING_PORT")))
            .withInitialSampler(new ProbabilisticSampler(0.0))
            .withPollingInterval(200)
            .build();
    RemoteReporter reporter =
        new RemoteReporter.Builder()
            .withSender(new UdpSender(host, Integer.parseInt(env.get("AGENT_PORT")), 0))
            .withFlushInterval(500)
            .withMaxQueueSize(10 * (rate + 100))
            .build();
    tracer =
        new JaegerTracer.Builder(service)
            .withSampler(sampler)
            .withReporter(reporter)
            .withTag("team", "blue")
            .build();
    while (!tracer.buildSpan("probe").start().context().isSampled()) {
      Thread.sleep(10);
    }
    System.out.println("strategy");

    String trace = pair();
    long spans = 2;
    long start = System.nanoTime();
    for (long tick = 1; tick <= 100L * seconds; tick++) {
      for (; spans < 2 + rate * tick / 100; spans += 2) {
        pair();
      }
      long left = start + tick * 10_000_000 - System.nanoTime();
      if (left > 0) {
        Thread.sleep(left / 1_000_000, (int) (left % 1_000_000));
      }
    }
    tracer.close();
    System.out.println("trace " + trace);
    System.out.println("spans " + spans);
  }

  private static String pair() {
    JaegerSpan root =
        tracer
            .buildSpan("parent")
            .withTag("n", 1)
            .withTag("f", 0.5)
            .withTag("b", true)
            .withTag("s", "text")
            .start();
    JaegerSpan child =
        tracer
            .buildSpan("child")
            .asChildOf(root)
            .addReference(References.FOLLOWS_FROM, root.context())
            .start();
    child.log(Map.of("event", "step", "k", 2));
    child.setTag("error", true);
    child.finish();
    root.finish();
    return root.context().getTraceId();
  }
}
