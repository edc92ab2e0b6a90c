# dot-proxy in a container: serves port 53 over UDP and TCP as an unprivileged user, without any capability.
#
#   docker build -t dot-proxy .
#   docker run --read-only --cap-drop ALL -p 127.0.0.1:54:53/udp -p 127.0.0.1:54:53/tcp dot-proxy
#
# Docker lets every user of a container bind port 53; where the engine does not, give it
# --sysctl net.ipv4.ip_unprivileged_port_start=53, or let it listen on a high port with --listen 0.0.0.0:5353.

FROM docker.io/library/rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin dot-proxy

FROM docker.io/library/debian:bookworm-slim
# the trust store by which resolvers are verified
RUN test -e /etc/ssl/certs/ca-certificates.crt \
 || { apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*; }
# a fixed number, so that files that are mounted can be given to it
RUN groupadd --gid 65532 dot-proxy \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin dot-proxy \
 && install -d -o 65532 -g 65532 -m 750 /run/dot-proxy
COPY packaging/container.toml /etc/dot-proxy/dot-proxy.toml
COPY --from=build /src/target/release/dot-proxy /usr/sbin/dot-proxy
USER 65532:65532
# the one folder that is written to, for the control socket: also with a read-only root file system
VOLUME /run/dot-proxy
EXPOSE 53/udp 53/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["/usr/sbin/dot-proxy", "status"]
ENTRYPOINT ["/usr/sbin/dot-proxy"]
