# syntax=docker/dockerfile:1
# An image with nothing in it but the program, its C library and the CA bundle; no shell, not root.
#
#   docker build --tag pillion:0.1.0 --build-arg PILLION_COMMIT="$(git rev-parse --short=12 HEAD)" .
#
# Both base images exist for amd64 and arm64.

# The version in rust-toolchain.toml; RUSTUP_TOOLCHAIN keeps rustup from fetching what only development needs.
FROM rust:1.95.0-bookworm AS build
ENV RUSTUP_TOOLCHAIN=1.95.0 CARGO_TERM_COLOR=never
# Puts the list of dependencies into the program, where scanners find it.
RUN ["cargo", "install", "--locked", "--version", "=0.7.7", "cargo-auditable"]
WORKDIR /src

# The dependencies alone, compiled with a program that does nothing: this layer stays until they change.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock build.rs ./
RUN mkdir -p src tests/it \
    && echo 'fn main() {}' | tee src/main.rs tests/it/main.rs >src/lib.rs \
    && cargo auditable build --release --locked \
    && rm -r src tests

COPY bpf/evidence.bpf.o bpf/
COPY src src
ARG PILLION_COMMIT=
# Cargo compares times, and what was copied can be older than what was compiled above.
RUN find src build.rs -name '*.rs' -exec touch {} + \
    && cargo auditable build --release --locked

# What redirects the connections of a pod before its program starts: the program with nft beside it. An init container
# runs it as root with NET_ADMIN and NET_RAW alone.
#
#   docker build --tag pillion:0.1.0-redirect --target redirect .
FROM debian:bookworm-slim AS redirect
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nftables \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/pillion /pillion
COPY LICENSE /LICENSE
USER 65532:65532
ENTRYPOINT ["/pillion"]
CMD ["redirect", "install"]

FROM gcr.io/distroless/cc-debian12:nonroot
ARG PILLION_COMMIT=
LABEL org.opencontainers.image.title="pillion" \
      org.opencontainers.image.description="A tracing sidecar proxy: spans, propagation, sampling and linking for unmodified services" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${PILLION_COMMIT}"
COPY --from=build /src/target/release/pillion /pillion
COPY LICENSE /LICENSE
USER 65532:65532
# Inbound, the program's HTTP proxy, probes and metrics where admin.probe_listen says so. The admin port stays on loopback.
EXPOSE 15606 15601 15691
# Asks the admin port that the settings name, so a configuration file belongs into PILLION_CONFIG: what `run -c` is told
# stays unknown here.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/pillion", "healthcheck"]
ENTRYPOINT ["/pillion"]
CMD ["run"]
