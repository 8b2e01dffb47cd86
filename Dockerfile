# slipring as a static binary in an empty image.
#
#   docker build -t slipring:0.1.0 .
#
# Mirrors, or base images of your own: --build-arg BUILD_IMAGE=… --build-arg RUNTIME_IMAGE=…
# BUILD_IMAGE brings a shell, cargo and a C compiler, for glibc (with its static libraries, as Debian's libc6-dev has them)
# or musl from 1.2.4 on (rust:1.95-alpine). Each platform is built by an image of its own kind; nothing here names one:
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t REGISTRY/slipring:0.1.0 --push .

ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim
ARG RUNTIME_IMAGE=scratch

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
# A panic aborts, and there are no symbols that a backtrace could show: the tables for unwinding are dead weight (0.6 MB).
# The compiler writes them all the same where the debug information of the standard library is at hand, so they are dropped
# when all is linked; what a panic says is not touched by that.
RUN echo 'SECTIONS { /DISCARD/ : { *(.eh_frame) } } INSERT AFTER .rodata;' > /build/no-unwinding.ld
# `host-tuple` is the platform that this runs on. That it is named keeps the flags from the macros, which run in the
# compiler and cannot be static. Relocations have a short form, too (0.2 MB less), which musl knows from 1.2.4 on.
ENV RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs \
        -C link-arg=-Wl,--no-eh-frame-hdr -C link-arg=-Wl,-T,/build/no-unwinding.ld" \
    CARGO_BUILD_TARGET=host-tuple \
    CARGO_PROFILE_DIST_DEBUG=0 \
    CARGO_PROFILE_DIST_STRIP=symbols

# The dependencies, against empty sources: this layer is built again only when they change. The benches are no part of
# it, and cargo wants the file of each that is declared.
COPY Cargo.toml Cargo.lock ./
RUN sed -i '/^\[\[bench\]\]/,/^$/d' Cargo.toml \
    && mkdir src && touch src/lib.rs && echo 'fn main() {}' > src/main.rs \
    && cargo build --profile dist --locked --bin slipring

# The real sources; touched, for cargo judges by the time of the last change.
COPY src src
RUN touch src/main.rs src/lib.rs \
    && cargo build --profile dist --locked --bin slipring \
    && cp target/*/dist/slipring /slipring

FROM ${RUNTIME_IMAGE}
COPY --from=build /slipring /usr/local/bin/slipring
ENV PATH=/usr/local/bin
# A number, so that Kubernetes' runAsNonRoot can tell.
USER 65532:65532
EXPOSE 11211 9150
ENTRYPOINT ["slipring"]
# No HEALTHCHECK: probes ask /healthz over HTTP.
ARG REVISION
ARG CREATED
ARG SOURCE
LABEL org.opencontainers.image.title="slipring" \
      org.opencontainers.image.description="A memcached sidecar proxy: one local port, a hash ring of nodes behind it" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
