# shellcheck shell=bash
# A Debian that is booted: a root, made once for each release and copied for each use, and the service manager in it, with a
# private network that is nothing but the loopback; so everything that a test needs is in the root. Read in by the tests
# beside this file.
[ "$(id -u)" = 0 ] || { echo "skipped: the booted systemd needs root"; exit 0; }
work=$(mktemp -d)
# several tests in a row share what takes longest
roots=${DOT_PROXY_ROOTS:-$work/roots}
machine=""
leader=""

stop_machine() {
  [ -z "$leader" ] || inside systemctl poweroff >/dev/null 2>&1 || true
  [ -z "$machine" ] || wait "$machine" 2>/dev/null || true
  machine="" leader=""
}
trap 'stop_machine; rm -rf "$work"' EXIT

inside() { nsenter -t "$leader" -a "$@"; }

main_process() { inside systemctl show -p MainPID --value dot-proxy.service; }

fail() {
  echo "FAILED: $*"
  [ -z "$leader" ] || inside journalctl --no-pager -u dot-proxy.service -u dot-proxy.socket | tail -40 || true
  exit 1
}

# copy_root RELEASE FOLDER
copy_root() {
  if [ ! -d "$roots/$1" ]; then
    mkdir -p "$roots"
    mmdebstrap --quiet --variant=minbase \
      --include=systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,openssl \
      --include=bind9-dnsutils,dnsperf,unbound,dnsmasq-base,systemd-resolved,rpm \
      "$1" "$roots/$1.new"
    # a resolver that takes part only where a test says so
    ln -s /dev/null "$roots/$1.new/etc/systemd/system/systemd-resolved.service"
    rm -f "$roots/$1.new/etc/resolv.conf"
    echo "nameserver 127.0.0.1" >"$roots/$1.new/etc/resolv.conf"
    mv "$roots/$1.new" "$roots/$1"
  fi
  cp -a --reflink=auto "$roots/$1" "$2"
}

# lay_program PROGRAM ROOT: the program and what belongs to it, as the README has it without a package
lay_program() {
  install -D -m 755 "$1" "$2/usr/sbin/dot-proxy"
  install -D -m 644 systemd/dot-proxy.service "$2/usr/lib/systemd/system/dot-proxy.service"
  install -D -m 644 systemd/dot-proxy.socket "$2/usr/lib/systemd/system/dot-proxy.socket"
  install -D -m 644 systemd/dot-proxy.sysusers "$2/usr/lib/sysusers.d/dot-proxy.conf"
  install -D -m 644 systemd/dot-proxy.tmpfiles "$2/usr/lib/tmpfiles.d/dot-proxy.conf"
  install -D -m 644 packaging/dot-proxy.toml "$2/etc/dot-proxy/dot-proxy.toml"
}

# boot ROOT [OPTION...]: with more options for systemd-nspawn
boot() {
  local root=$1
  shift
  # nspawn keeps Landlock from what runs inside unless told otherwise
  systemd-nspawn -q -D "$root" "$@" --boot --register=no --keep-unit --private-network --console=pipe \
    --system-call-filter='landlock_create_ruleset landlock_add_rule landlock_restrict_self' -M "dp-$$" \
    </dev/null >"$work/console" 2>&1 &
  machine=$!
  for _ in $(seq 200); do
    leader=$(pgrep -P "$machine" -x systemd || true)
    [ -z "$leader" ] || break
    sleep 0.1
  done
  [ -n "$leader" ] || { cat "$work/console"; exit 1; }
  local state=""
  for _ in $(seq 150); do
    state=$(inside systemctl is-system-running 2>/dev/null || true)
    case $state in running | degraded) return ;; esac
    sleep 0.2
  done
  inside systemctl list-jobs --no-pager
  fail "not booted after 30 s: $state"
}
