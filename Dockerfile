# slipring as a static binary in an empty image.
#
#   docker build -t slipring .
#
# A mirror or a base image of your own: --build-arg BUILD_IMAGE=… --build-arg RUNTIME_IMAGE=…
# BUILD_IMAGE brings cargo and a C linker for a musl host: what it builds is linked statically.

ARG BUILD_IMAGE=rust:1.95-alpine
ARG RUNTIME_IMAGE=scratch

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
ENV CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=symbols

# The dependencies, against empty sources: this layer is built again only when they change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src benches && touch src/lib.rs benches/core.rs && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked --bin slipring

# The real sources; touched, for cargo judges by the time of the last change.
COPY src src
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin slipring

FROM ${RUNTIME_IMAGE}
COPY --from=build /build/target/release/slipring /usr/local/bin/slipring
ENV PATH=/usr/local/bin
# A number, so that Kubernetes' runAsNonRoot can tell.
USER 65532:65532
EXPOSE 11211 9150
ENTRYPOINT ["slipring"]
