#!/usr/bin/env bash
# Installs the real counterparts that the interop tests use: Jaeger v2 and v1, an OpenTelemetry Collector, Zipkin, Python
# and Node clients, command-line tools; and the compiler of bpf/.
#
# Everything but Debian packages goes into ${PILLION_TEST_TOOLS:-$HOME/.cache/pillion-tools}, where the tests look:
#   bin/jaeger    bin/jaeger-all-in-one    bin/otelcol    lib/zipkin.jar    python/bin/python    agents/bin/python
#   node/node_modules    linking/bin/python    log/*.log    bin/reports-go
#   bin/jaeger-agent    java/Reports.class and the jars beside it    bin/helm    bin/kustomize    kafka/*.jar
#   kube/etcd    kube/VERSION/kube-apiserver    kube/VERSION/kube-controller-manager    kube/VERSION/kubectl    kube/crds
# Running it again installs only what is missing. What cannot be installed is skipped with the reason; with
# PILLION_TEST_REQUIRE=1 that makes the exit status 1. Arguments choose parts (default: all, see main, but older_apiservers).
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${PILLION_TEST_TOOLS:-$HOME/.cache/pillion-tools}
jaeger_module=github.com/jaegertracing/jaeger
jaeger_commit=798e4b0fcf22609e381df764a01461affd813e1e # v2.20.0
zipkin_version=3.5.1
helm_version=v3.16.4
kustomize_version=v5.5.0
kubernetes_version=v1.36.3
older_kubernetes_versions=(v1.27.3 v1.29.6 v1.33.13)
etcd_version=v3.6.16
cert_manager_module=github.com/cert-manager/cert-manager@v1.16.2
prometheus_operator_module=github.com/prometheus-operator/prometheus-operator@v0.79.2
skipped=0

main() {
  mkdir -p "$tools/bin" "$tools/lib" "$tools/log" || exit 1
  local part parts=(debian jaeger otelcol jaeger1 zipkin python agents node linking bpf clients jaeger_agent kafka kubernetes apiservers)
  if [[ $# = 0 ]]; then set -- "${parts[@]}"; fi
  parts+=(older_apiservers)
  for part in "$@"; do
    if [[ " ${parts[*]} " != *" $part "* ]]; then
      echo "unknown part: $part (${parts[*]})" >&2
      exit 2
    fi
  done
  for part in "$@"; do "install_$part"; done
  [[ $skipped = 0 || ${PILLION_TEST_REQUIRE:-} != 1 ]]
}

have() { echo "have: $*"; }
skip() { echo "SKIP: $*"; skipped=$((skipped + 1)); }

# try NAME COMMAND...: runs it with its output in log/NAME.log.
try() {
  local log=$tools/log/$1.log
  shift
  "$@" >"$log" 2>&1
}

reason() { grep -v '^[[:space:]]*$' "$tools/log/$1.log" | tail -n 1 | sed 's/^[[:space:]]*//' | cut -c 1-200; }

install_jaeger() {
  local bin=$tools/bin/jaeger
  if [[ -x $bin ]]; then
    have "jaeger ($(cat "$bin.version" 2>/dev/null || echo unknown version))"
    return
  fi
  if ! command -v go >/dev/null; then
    skip "jaeger: no Go toolchain"
    return
  fi
  echo "building jaeger, this takes minutes"
  if try jaeger-2.20 jaeger_by_commit; then
    echo "v2.20.0" >"$bin.version"
    have "jaeger v2.20.0"
    return
  fi
  echo "note: jaeger v2.20.0 cannot be installed: $(reason jaeger-2.20)"
  if try jaeger-2.13 by_wrapper jaeger "$jaeger_module" cmd/jaeger "$bin"; then
    echo "v2.13.0 (module v1.76.0)" >"$bin.version"
    have "jaeger v2.13.0"
    return
  fi
  skip "jaeger: $(reason jaeger-2.13)"
}

jaeger_by_commit() {
  GOBIN=$tools/bin nice go install -trimpath -ldflags='-s -w' "$jaeger_module/cmd/jaeger@$jaeger_commit"
}

# The collector's modules at the newest version that the module proxy has all of; the builder writes the program.
install_otelcol() {
  local bin=$tools/bin/otelcol wanted=$here/otelcol/builder.yaml
  if [[ -x $bin ]] && cmp -s "$wanted" "$bin.yaml"; then
    have "otelcol ($(sed -n 's/^  version: //p' "$wanted"))"
    return
  fi
  if ! command -v go >/dev/null; then
    skip "otelcol: no Go toolchain"
    return
  fi
  echo "building otelcol, this takes minutes"
  if try otelcol otelcol_by_builder "$wanted"; then
    cp "$wanted" "$bin.yaml"
    have "otelcol ($(sed -n 's/^  version: //p' "$wanted"))"
    return
  fi
  skip "otelcol: $(reason otelcol)"
}

# otelcol_by_builder CONFIG. Checksums as for the wrapper below.
otelcol_by_builder() {
  local config=$1 build version module module_version
  build=$(mktemp -d) || return
  version=$(sed -n 's/^  version: //p' "$config")
  (
    set -e
    cd "$build"
    GOBIN=$build nice go install "go.opentelemetry.io/collector/cmd/builder@v$version"
    ./builder --config "$config" --skip-compilation --skip-get-modules
    cd out
    { cat go.sum 2>/dev/null || true; } >sums
    while read -r module module_version; do
      cat "$(module_dir "$module@$module_version")/go.sum" >>sums
    done < <(sed -n 's/^ *- gomod: //p' "$config")
    sort -u sums >go.sum
    GOFLAGS="${GOFLAGS:-} -mod=mod" nice go build -p 2 -trimpath -ldflags='-s -w' -o "$tools/bin/otelcol" .
  )
  local status=$?
  rm -rf "$build"
  return $status
}

# module_dir MODULE@VERSION: downloads it; the directory it lies in.
module_dir() { go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p'; }

# The last line of Jaeger before 2, for who still runs it.
install_jaeger1() {
  local bin=$tools/bin/jaeger-all-in-one
  if [[ -x $bin ]]; then
    have "jaeger-all-in-one ($(cat "$bin.version" 2>/dev/null || echo unknown version))"
    return
  fi
  if ! command -v go >/dev/null; then
    skip "jaeger-all-in-one: no Go toolchain"
    return
  fi
  echo "building jaeger-all-in-one, this takes minutes"
  if try jaeger-1 by_wrapper jaeger1 "$jaeger_module" cmd/all-in-one "$bin"; then
    sed -n "s|^require $jaeger_module ||p" "$here/jaeger1/go.mod" >"$bin.version"
    have "jaeger-all-in-one ($(cat "$bin.version"))"
    return
  fi
  skip "jaeger-all-in-one: $(reason jaeger-1)"
}

install_zipkin() {
  local jar=$tools/lib/zipkin.jar
  if [[ $(cat "$jar.version" 2>/dev/null) = "$zipkin_version" ]]; then
    have "zipkin ($zipkin_version)"
    return
  fi
  if ! command -v mvn >/dev/null || ! command -v java >/dev/null; then
    skip "zipkin: no Java or no Maven"
    return
  fi
  if try zipkin mvn --batch-mode org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy \
    "-Dartifact=io.zipkin:zipkin-server:$zipkin_version:jar:exec" "-DoutputDirectory=$tools/lib"; then
    mv "$tools/lib/zipkin-server-$zipkin_version-exec.jar" "$jar" && echo "$zipkin_version" >"$jar.version"
    have "zipkin ($zipkin_version)"
    return
  fi
  skip "zipkin: $(grep -m 1 ERROR "$tools/log/zipkin.log" | cut -c 1-200)"
}

# A Kafka broker, as jars.
install_kafka() {
  local dir=$tools/kafka
  if cmp -s "$here/kafka/pom.xml" "$dir/pom.xml"; then
    have "kafka ($(sed -n 's/.*<version>\(.*\..*\)<.*/\1/p' "$dir/pom.xml"))"
  elif ! command -v mvn >/dev/null || ! command -v java >/dev/null; then
    skip "kafka: no Java or no Maven"
  elif mkdir -p "$dir" && try kafka nice mvn -q -B -f "$here/kafka/pom.xml" dependency:copy-dependencies \
    -DoutputDirectory="$dir" && cp "$here/kafka/pom.xml" "$dir/"; then
    have "kafka"
  else
    skip "kafka: $(reason kafka)"
  fi
}

# The last agent there was, which the benchmark measures Pillion against.
install_jaeger_agent() {
  if [[ -x $tools/bin/jaeger-agent ]]; then
    have "jaeger-agent"
  elif ! command -v go >/dev/null; then
    skip "jaeger-agent: no Go toolchain"
  elif try jaeger-agent by_wrapper jaeger-agent "$jaeger_module" cmd/agent "$tools/bin/jaeger-agent"; then
    have "jaeger-agent v1.67.0"
  else
    skip "jaeger-agent: $(reason jaeger-agent)"
  fi
}

# The wrapper takes the checksums from the module's own go.sum (itself verified on download), because the checksum
# database does not know every module that it needs.
# by_wrapper FOLDER MODULE PACKAGE BINARY
by_wrapper() {
  local folder=$1 module=$2 package=$3 binary=$4 build version dir
  build=$(mktemp -d) || return
  version=$(sed -n "s|^require $module ||p" "$here/$folder/go.mod")
  cp "$here/$folder/go.mod" "$here/$folder/tools.go" "$build/" &&
    dir=$(cd "$build" && module_dir "$module@$version") &&
    install -m 644 "$dir/go.sum" "$build/go.sum" &&
    (cd "$build" && GOFLAGS="${GOFLAGS:-} -mod=mod" \
      nice go build -p 2 -trimpath -ldflags='-s -w' -o "$binary" "$module/$package")
  local status=$?
  rm -rf "$build"
  return $status
}

# Helm renders the chart, kubectl or kustomize the manifests; the checker of both is a Python package (part python).
install_kubernetes() {
  go_tool helm "helm.sh/helm/v3/cmd/helm@$helm_version"
  if command -v kubectl >/dev/null; then
    have "kubectl"
  else
    go_tool kustomize "sigs.k8s.io/kustomize/kustomize/v5@$kustomize_version"
  fi
}

# The servers that ask the injector, without kubelet and scheduler: pods are made and never run; and kubectl, for the page.
install_apiservers() {
  api_servers "$kubernetes_version"
  if command -v go >/dev/null; then
    kube_program kubectl k8s.io/kubernetes "$kubernetes_version" /cmd/kubectl "$tools/kube/$kubernetes_version/kubectl"
    kube_kinds
  fi
}

install_older_apiservers() { api_servers "${older_kubernetes_versions[@]}"; }

# api_servers VERSION...
api_servers() {
  if ! command -v go >/dev/null; then
    skip "API servers: no Go toolchain"
    return
  fi
  local version
  mkdir -p "$tools/kube"
  kube_program etcd go.etcd.io/etcd/server/v3 "$etcd_version" "" "$tools/kube/etcd"
  for version in "$@"; do
    mkdir -p "$tools/kube/$version"
    for program in kube-apiserver kube-controller-manager; do
      kube_program "$program" k8s.io/kubernetes "$version" "/cmd/$program" "$tools/kube/$version/$program"
    done
  done
}

# The kinds that the manifests use and Kubernetes does not have, as their makers declare them.
kube_kinds() {
  local to=$tools/kube/crds wanted="$cert_manager_module $prometheus_operator_module"
  if [[ $(cat "$tools/kube/crds.version" 2>/dev/null) = "$wanted" ]]; then
    have "kinds of cert-manager and the Prometheus operator"
  elif mkdir -p "$to" && try kube-kinds copy_kinds "$to"; then
    echo "$wanted" >"$tools/kube/crds.version"
    have "kinds of cert-manager and the Prometheus operator"
  else
    skip "kinds of cert-manager and the Prometheus operator: $(reason kube-kinds)"
  fi
}

# copy_kinds TO. cert-manager's are templates; what is left out are labels.
copy_kinds() {
  local to=$1 dir kind
  dir=$(module_dir "$cert_manager_module") || return
  for kind in certificates issuers; do
    sed '/{{/d' "$dir/deploy/crds/crd-$kind.yaml" >"$to/cert-manager-$kind.yaml" || return
  done
  dir=$(module_dir "$prometheus_operator_module") || return
  install -m 644 "$dir/example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml" "$to/"
}

# kube_program NAME MODULE VERSION FOLDER BINARY
kube_program() {
  local name=$1 version=$3 binary=$5
  if [[ $(cat "$binary.version" 2>/dev/null) = "$version" ]]; then
    have "$name $version"
    return
  fi
  echo "building $name $version, this takes minutes"
  if try "$name-$version" kube_build "$2" "$version" "$2$4" "$binary"; then
    echo "$version" >"$binary.version"
    have "$name $version"
  else
    skip "$name $version: $(reason "$name-$version")"
  fi
}

# kube_build MODULE VERSION PACKAGE BINARY. What Kubernetes takes from its own tree is published under its version with 0 in
# front; checksums as for the wrapper above. Without the providers of clouds, which old versions hold in a module that is gone.
kube_build() {
  local module=$1 version=$2 package=$3 binary=$4 build dir part flags=-X\ k8s.io/component-base/version
  build=$(mktemp -d) || return
  dir=$(cd "$build" && module_dir "$module@$version") || return
  {
    echo "module pillion.invalid/tests/interop/kube"
    grep '^go ' "$dir/go.mod"
    echo "require $module $version"
    sed -n 's|^\t\(k8s.io/[a-z-]*\) v0.0.0\( .*\)\{0,1\}$|\1|p' "$dir/go.mod" | sort -u | while read -r part; do
      # The module proxy does not have these of 1.29.6.
      case $part@$version in
        k8s.io/endpointslice@v1.29.6 | k8s.io/kube-controller-manager@v1.29.6) echo "replace $part => $part v0.29.0" ;;
        *) echo "replace $part => $part v0.${version#v1.}" ;;
      esac
    done
  } >"$build/go.mod"
  printf '//go:build tools\n\npackage tools\n\nimport _ "%s"\n' "$package" >"$build/tools.go"
  install -m 644 "$dir/go.sum" "$build/go.sum"
  flags="$flags.gitVersion=$version $flags.gitMajor=1 $flags.gitMinor=$(cut -d. -f2 <<<"$version")"
  (cd "$build" && GOFLAGS="${GOFLAGS:-} -mod=mod" \
    nice go build -p 2 -tags providerless -trimpath -ldflags="-s -w $flags" -o "$binary" "$package")
  local status=$?
  rm -rf "$build"
  return $status
}

# go_tool NAME PACKAGE@VERSION
go_tool() {
  local name=$1 package=$2
  if [[ $(cat "$tools/bin/$name.version" 2>/dev/null) = "${package##*@}" ]]; then
    have "$name (${package##*@})"
  elif ! command -v go >/dev/null; then
    skip "$name: no Go toolchain"
  elif try "$name" env GOBIN="$tools/bin" nice go install -trimpath -ldflags='-s -w' "$package"; then
    echo "${package##*@}" >"$tools/bin/$name.version"
    have "$name (${package##*@})"
  else
    skip "$name: $(reason "$name")"
  fi
}

install_python() { install_venv python "$here/python/requirements.txt"; }

# The agents of other systems patch what they find, so they live apart.
install_agents() { install_venv agents "$here/python/agents.txt"; }

# The programs of the linking benchmark.
install_linking() {
  install_venv linking "$here/../bench/linking/apps/requirements.txt"
  local missing=()
  want javac:openjdk-17-jdk-headless php:php-cli /usr/lib/go-1.19/bin/go:golang-1.19-go
  install_packages
}

# install_venv NAME REQUIREMENTS
install_venv() {
  local name=$1 venv=$tools/$1 wanted=$2
  if cmp -s "$wanted" "$venv/installed.txt"; then
    have "$name packages"
    return
  fi
  if ! command -v python3 >/dev/null; then
    skip "$name packages: no python3"
    return
  fi
  if try "$name-venv" python3 -m venv --clear "$venv" &&
    try "$name" "$venv/bin/python" -m pip install --no-input -r "$wanted"; then
    cp "$wanted" "$venv/installed.txt"
    have "$name packages"
    return
  fi
  [[ -x $venv/bin/pip ]] && skip "$name packages: $(reason "$name")" || skip "$name packages: $(reason "$name-venv")"
}

install_node() {
  local dir=$tools/node wanted=$here/node/package.json
  if cmp -s "$wanted" "$dir/installed.json"; then
    have "node packages"
    return
  fi
  if ! command -v npm >/dev/null; then
    skip "node packages: no npm"
    return
  fi
  mkdir -p "$dir" && cp "$wanted" "$dir/package.json"
  if try node npm install --prefix "$dir" --no-audit --no-fund --no-package-lock --ignore-scripts; then
    cp "$wanted" "$dir/installed.json"
    have "node packages"
    return
  fi
  skip "node packages: $(reason node)"
}

# Jaeger's clients for Go and Java, in the programs that the tests start.
install_clients() {
  local bin=$tools/bin/reports-go classes=$tools/java
  if [[ -x $bin && ! $here/go/main.go -nt $bin ]]; then
    have "jaeger-client-go"
  elif ! command -v go >/dev/null; then
    skip "jaeger-client-go: no Go toolchain"
  elif try clients-go env -C "$here/go" nice go build -trimpath -o "$bin" .; then
    have "jaeger-client-go"
  else
    skip "jaeger-client-go: $(reason clients-go)"
  fi
  if [[ -f $classes/Reports.class && ! $here/java/Reports.java -nt $classes/Reports.class ]]; then
    have "jaeger-client for Java"
  elif ! command -v mvn >/dev/null || ! command -v javac >/dev/null; then
    skip "jaeger-client for Java: no Maven or no javac"
  elif mkdir -p "$classes" && cp "$here/java/pom.xml" "$classes/" &&
    try clients-maven nice mvn -q -B -f "$classes/pom.xml" dependency:copy-dependencies -DoutputDirectory="$classes" &&
    try clients-java nice javac -cp "$classes/*" -d "$classes" "$here/java/Reports.java"; then
    have "jaeger-client for Java"
  elif [[ -s $tools/log/clients-java.log ]]; then
    skip "jaeger-client for Java: $(reason clients-java)"
  else
    skip "jaeger-client for Java: $(reason clients-maven)"
  fi
}

install_debian() {
  local missing=()
  want cc:build-essential promtool:prometheus curl:curl h2load:nghttp2-client chromium:chromium \
    java:default-jre-headless mvn:maven ip:iproute2 nft:nftables iptables-restore:iptables redis-server:redis-server \
    mariadbd:mariadb-server puma:puma nginx:nginx psql:postgresql redis-cli:redis-tools \
    valgrind:valgrind systemctl:systemd setpriv:util-linux openssl:openssl
  # Debian's python3 alone cannot make virtual environments.
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  install_packages
}

# What bpf/build needs.
install_bpf() {
  local missing=()
  want clang-19:clang-19 llvm-strip-19:llvm-19
  if [[ -e /usr/include/bpf/bpf_helpers.h ]]; then have bpf_helpers.h; else missing+=(libbpf-dev); fi
  install_packages
}

# want COMMAND:PACKAGE...: adds the packages of commands that are not there to `missing`.
want() {
  local pair command
  for pair in "$@"; do
    command=${pair%%:*}
    if command -v "$command" >/dev/null; then have "$command"; else missing+=("${pair##*:}"); fi
  done
}

# Installs the packages in `missing`.
install_packages() {
  local package
  [[ ${#missing[@]} -gt 0 ]] || return
  local as_root=()
  if [[ $(id -u) != 0 ]]; then as_root=(sudo -n); fi
  if ! command -v apt-get >/dev/null; then
    skip "${missing[*]}: no apt-get, install them by hand"
  elif ! "${as_root[@]}" true 2>/dev/null; then
    skip "${missing[*]}: not root and no sudo without a password"
  else
    try debian-update "${as_root[@]}" apt-get update
    for package in "${missing[@]}"; do
      if try "debian-$package" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$package"; then
        have "$package"
      else
        skip "$package: $(reason "debian-$package")"
      fi
    done
  fi
}

main "$@"
