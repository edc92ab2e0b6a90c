# shellcheck shell=bash
# What holds of a package in a booted root, whichever of the two kinds it is. Read in by the tests beside this file, after
# machine.sh and resolver.sh.
units="dot-proxy.socket dot-proxy.service"
config=/etc/dot-proxy/dot-proxy.toml

# files_in ROOT: what is there, and under /etc what it holds; without what the system writes of itself, and the user's lines
files_in() {
  ( cd "$1"
    find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./tmp -o -path ./var/tmp -o -path ./var/log \
      -o -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./var/cache/apt -o -path ./var/cache/debconf \
      -o -path ./var/lib/rpm -o -path ./root/.rpmdb -o -path ./var/lib/systemd/timers -o -path ./packages \
      -o -path './etc/passwd*' -o -path './etc/group*' -o -path './etc/shadow*' -o -path './etc/gshadow*' -o -path ./etc/.pwd.lock \) -prune -o -print
    find etc -xdev -type f ! -path 'etc/passwd*' ! -path 'etc/group*' ! -path 'etc/shadow*' ! -path 'etc/gshadow*' -exec sha256sum {} +
    find var/lib/dpkg/info -name 'dot-proxy*'
  ) | sort
}

# same BEFORE AFTER WHAT
same() { diff "$1" "$2" >"$work/difference" || { cat "$work/difference"; fail "$3"; }; }

# neither enabled nor running
at_rest() {
  local unit
  for unit in $units; do
    [ "$(inside systemctl is-enabled "$unit" 2>/dev/null)" = disabled ] || fail "$unit is enabled"
    [ "$(inside systemctl is-active "$unit" 2>/dev/null)" = inactive ] || fail "$unit runs"
  done
}

# upgraded_under_load COMMAND...: one restart of the service, none of the socket unit, nothing lost
upgraded_under_load() {
  local opened before since
  opened=$(inside systemctl show -p ActiveEnterTimestampMonotonic -p InvocationID dot-proxy.socket)
  before=$(main_process)
  since=$(inside journalctl -u dot-proxy.service -o cat | grep -c '^Started ')
  sha256sum "$root$config" >"$work/edited"
  under_load "$@"
  [ "$(main_process)" != "$before" ] || fail "the upgrade did not restart the service"
  [ "$(inside journalctl -u dot-proxy.service -o cat | grep -c '^Started ')" = $((since + 1)) ] || fail "restarted more than once"
  [ "$(inside systemctl show -p ActiveEnterTimestampMonotonic -p InvocationID dot-proxy.socket)" = "$opened" ] || fail "the socket unit was restarted"
  sha256sum --quiet -c "$work/edited" || fail "the edited configuration was changed"
  ask_all
  echo "upgrade: one restart under load, nothing lost, sockets kept, edited configuration kept"
}

# both units are stopped, and their port is free
stopped() {
  local unit
  for unit in $units; do [ "$(inside systemctl is-active "$unit" 2>/dev/null)" = inactive ] || fail "$unit still runs"; done
  [ -z "$(inside ss -Hlntu 'sport = :53')" ] || fail "port 53 is still open"
  ! inside systemctl --failed --no-legend | grep dot-proxy || fail "a unit failed"
}

# nothing on the machine has the name any more
forgotten() {
  local unit
  inside find / -xdev \( -path /proc -o -path /packages \) -prune -o -name '*dot-proxy*' -print >"$work/left"
  inside find /run -name '*dot-proxy*' >>"$work/left"
  [ ! -s "$work/left" ] || { cat "$work/left"; fail "left behind"; }
  for unit in $units; do [ "$(inside systemctl show -p LoadState --value "$unit")" = not-found ] || fail "$unit is still known"; done
}
