// Builds Jaeger v1 as a dependency, which "go install" refuses for modules with a replace directive.
// The go.sum comes from the module itself when install.sh runs.
module pillion.invalid/tests/interop/jaeger1

go 1.22.0

require github.com/jaegertracing/jaeger v1.62.0

// As in the module's own go.mod; directives of dependencies do not count.
replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
