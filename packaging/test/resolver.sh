# shellcheck shell=bash
# The resolver of the tests beside this file: unbound with DNS over TLS under a CA of its own, in the same root as the program.
. packaging/test/certificates.sh

# lay_resolver ROOT
lay_resolver() {
  lay_certificates "$1/etc/lab"
  cat >"$1/etc/unbound/unbound.conf" <<'END'
server:
  interface: 127.0.0.1@853
  tls-port: 853
  tls-service-pem: /etc/lab/server.pem
  tls-service-key: /etc/lab/server.key
  module-config: "iterator"
  incoming-num-tcp: 100
  local-zone: peer.example. redirect
  local-data: "peer.example. 300 IN A 192.0.2.53"
remote-control:
  control-enable: no
END
  for number in $(seq 5000); do echo "n$number.peer.example A"; done >"$1/etc/lab/queries"
}

# use_resolver FILE: the configuration asks that resolver
use_resolver() {
  sed -i 's|^\[upstream\]|&\nservers = ["127.0.0.1:853#upstream.test"]\nca-file = "/etc/lab/ca.pem"|' "$1"
}

# the whole way, over both transports and both addresses, and through the C library
ask_all() {
  local server transport answer
  for server in 127.0.0.1 ::1; do
    for transport in +notcp +tcp; do
      answer=$(inside dig +short "$transport" "@$server" "q.peer.example" A)
      [ "$answer" = 192.0.2.53 ] || fail "dig $transport @$server: $answer"
    done
  done
  inside getent ahostsv4 g.peer.example | grep -q '^192.0.2.53' || inside getent hosts g.peer.example | grep -q '^192.0.2.53' || fail getent
}

# under_load COMMAND...: 500 queries a second over UDP for 8 s, and one new TCP connection after the other all the while;
# nothing may be lost
under_load() {
  inside dnsperf -s 127.0.0.1 -d /etc/lab/queries -Q 500 -l 8 -t 5 >"$work/udp" &
  local udp=$!
  inside sh -c 'n=0; end=$(($(date +%s) + 8)); while [ "$(date +%s)" -lt "$end" ]; do
    n=$((n + 1)); dig +short +tcp +time=5 +tries=1 @127.0.0.1 t$n.peer.example A; done; echo "asked $n"' >"$work/tcp" &
  local tcp=$! asked
  "$@"
  wait "$udp" "$tcp"
  grep -q 'Queries lost:  *0 ' "$work/udp" || { cat "$work/udp"; fail "datagrams were lost"; }
  asked=$(sed -n 's/^asked //p' "$work/tcp")
  [ "$(grep -c '^192.0.2.53$' "$work/tcp")" = "$asked" ] || { cat "$work/tcp"; fail "tcp queries were lost"; }
  grep 'Queries completed\|Queries lost\|Run time' "$work/udp"
  echo "  TCP connections:      $asked, each answered"
}
