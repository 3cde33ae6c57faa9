// Builds the agent of Jaeger v1.67, the last one there was, as a dependency: "go install" refuses modules with a replace
// directive. The go.sum comes from the module itself when install.sh runs.
module pillion.invalid/tests/interop/jaeger-agent

go 1.23.7

require github.com/jaegertracing/jaeger v1.67.0

// As in the module's own go.mod; directives of dependencies do not count.
replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
