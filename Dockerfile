# slipring as a static binary in an empty image.
#
#   docker build -t slipring:0.1.0 .
#
# Mirrors, or base images of your own: --build-arg BUILD_IMAGE=… --build-arg RUNTIME_IMAGE=…
# BUILD_IMAGE brings a shell, cargo and a C compiler, for glibc (with its static libraries, as Debian's libc6-dev has them)
# or musl from 1.2.4 on (rust:1.95-alpine). Each platform is built by an image of its own kind; nothing here names one:
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t REGISTRY/slipring:0.1.0 --push .

# The program is compiled twice: once to count what a load of requests runs most (deploy/image/train.rs), and then by these counts
# (profile-guided optimisation), with what was run at all side by side in memory. --build-arg PROFILE=untrained leaves that
# out, in less time (260 s, not 440, on two cores): for a BUILD_IMAGE without rustup (for its component llvm-tools) or without apt or apk (for memcached and openssl).

ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim
ARG RUNTIME_IMAGE=scratch

FROM ${BUILD_IMAGE} AS base
WORKDIR /build
# `host-tuple` is the platform that this runs on. That it is named keeps the flags from the macros, which run in the
# compiler and cannot be static. Relocations have a short form, too (0.2 MB less), which musl knows from 1.2.4 on.
ENV RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs -C link-arg=-Wl,--no-eh-frame-hdr" \
    CARGO_BUILD_TARGET=host-tuple \
    CARGO_PROFILE_DIST_DEBUG=0 \
    CARGO_PROFILE_DIST_STRIP=symbols
# A panic aborts, and there are no symbols that a backtrace could show: the tables for unwinding are dead weight (0.6 MB).
# The compiler writes them all the same where the debug information of the standard library is at hand, so they are dropped
# when all is linked; what a panic says is not touched by that.
RUN mkdir /profile \
    && echo 'SECTIONS { /DISCARD/ : { *(.eh_frame) } } INSERT AFTER .rodata;' > /profile/link.ld \
    && echo '-C link-arg=-Wl,-T,/profile/link.ld' > /profile/flags
# The dependencies, against empty sources: a layer that is built from these is built again only when they change. Benches and
# examples are no part of it, and cargo wants the file of each that is declared.
COPY Cargo.toml Cargo.lock ./
RUN sed -i -E '/^\[\[(bench|example)\]\]/,/^$/d' Cargo.toml \
    && mkdir src && touch src/lib.rs && echo 'fn main() {}' > src/main.rs

FROM base AS profile
ARG PROFILE=trained
RUN [ "$PROFILE" = untrained ] || { \
        tools=$(rustc --print sysroot)/lib/rustlib/$(rustc --print host-tuple)/bin \
        && { [ -x "$tools/llvm-profdata" ] || rustup component add llvm-tools; } \
        && ln -s "$tools/llvm-profdata" /profile/ \
        && { { command -v memcached && command -v openssl; } || apk add memcached openssl \
            || { apt-get update && apt-get install -y --no-install-recommends memcached openssl; }; } \
        && RUSTFLAGS="$RUSTFLAGS -C profile-generate=/profile/counts" cargo build --profile dist --locked --bin slipring; }
COPY src src
RUN [ "$PROFILE" = untrained ] || { \
        touch src/main.rs src/lib.rs \
        && RUSTFLAGS="$RUSTFLAGS -C profile-generate=/profile/counts" cargo build --profile dist --locked --bin slipring; }
COPY deploy/image/train.rs .
# The linker puts what was run side by side, and what a sidecar runs that has nothing to do, so that the rest need not be in memory.
# TLS has its place, too, but is not compiled as what is hot: it would be larger for all, and what is slow in it is not counted.
RUN [ "$PROFILE" = untrained ] || { \
        rustc --edition 2024 -O -o /profile/train train.rs \
        && /profile/train target/*/dist/slipring "$(command -v memcached)" /profile/counts \
        && cd /profile \
        && ./llvm-profdata merge -o slipring.profdata counts/idle-* counts/load-* \
        && echo '-C profile-use=/profile/slipring.profdata' >> flags \
        && ./llvm-profdata merge -o idle.profdata counts/idle-* \
        && ./llvm-profdata merge -o all.profdata counts/* \
        && for part in idle slipring all; do \
            ./llvm-profdata show --all-functions --counts $part.profdata > $part.run || exit; done \
        && ./train order idle.run slipring.run all.run >> link.ld; }

FROM base AS build
COPY --from=profile /profile/ /profile/
RUN RUSTFLAGS="$RUSTFLAGS $(tr '\n' ' ' < /profile/flags)" cargo build --profile dist --locked --bin slipring
# The real sources; touched, for cargo judges by the time of the last change.
COPY src src
RUN touch src/main.rs src/lib.rs \
    && RUSTFLAGS="$RUSTFLAGS $(tr '\n' ' ' < /profile/flags)" cargo build --profile dist --locked --bin slipring \
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
