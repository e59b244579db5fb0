#!/bin/bash
# What makes a service of files that are in place, and takes it away again. install.sh reads it; dpkg runs it as each of the package's maintainer scripts, which
# are links to it in deb/ (dpkg says in DPKG_MAINTSCRIPT_NAME which it is), so that both ways end in the same state. By hand:
#
#   sudo /usr/share/uhr-edge/service.sh limit    the memory limit once more, after the profile or the model was changed
#   /usr/share/uhr-edge/service.sh check         whether all is as it should be
#
# # Why
# - The profile is no conffile: which one is right depends on the board, so that it is written once, here. The environment is one.
# - The memory limit is made of the profile: where there is one, this is no first installation, and whoever disabled the service since then meant it.
# - What somebody wrote or the daemon kept goes only by a purge, which says so.
set -euo pipefail

# Everything goes below `root`, and nothing is started; install.sh sets both. What the environment has under these names is not meant for dpkg's scripts.
[ -z "${DPKG_MAINTSCRIPT_NAME-}" ] || unset root start
root=${root-}
start=${start-yes}
changed=no

bin=$root/usr/bin/uhr-edge
share=$root/usr/share/uhr-edge
# shellcheck disable=SC2034 # install.sh puts files there
doc=$root/usr/share/doc/uhr-edge
etc=$root/etc/uhr-edge
unit=$root/usr/lib/systemd/system/uhr-edge.service
limits=$root/etc/systemd/system/uhr-edge.service.d/memory.conf
rules=$root/usr/lib/udev/rules.d/99-uhr-edge-radio.rules
state=$root/var/lib/uhr-edge

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
running() { [ -z "$root" ] && [ -d /run/systemd/system ]; }
can_enable() { [ -z "$root" ] && command -v systemctl > /dev/null; }
as_root() { [ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "wanted root, found $(id -un)"; }

# A file is put in place whole, and only where it differs.
put() { # FROM TO MODE
  if ! cmp -s "$1" "$2"; then
    mkdir -p "$(dirname "$2")"
    install -m "$3" "$1" "$2.new" && mv "$2.new" "$2"
    changed=yes
    say "wrote $2"
  fi
}

profiles() { (cd "$1" && printf '%s\n' *.toml | sed 's/\.toml$//' | tr '\n' ' '); }

# The profile made for this board, by its name in the device tree, where its memory holds the profile's limit; else `host`, which any machine holds.
board_profile() { # PROFILES [PROC]
  local proc=${2:-/proc} model='' kib name=host limit
  # The kernel ends the name with a NUL.
  if [ -r "$proc/device-tree/model" ]; then model=$(tr -d '\0' < "$proc/device-tree/model"); fi
  case $model in
    *Jetson*Orin*Nano*) name=orin-nano-8 ;;
    *Jetson*Orin*NX*) name=orin-nx-16 ;;
    *Jetson*AGX*Orin*) name=agx-orin-64 ;;
    *Jetson*Thor*) name=thor ;;
  esac
  kib=$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' "$proc/meminfo")
  limit=$(sed -n 's/^limit-mib = \([0-9]*\).*/\1/p' "$1/$name.toml")
  if [ "${kib:-0}" -lt $((limit * 1024)) ] && [ "$name" != host ]; then
    say "$model: the profile $name plans for $limit MiB, found $((kib / 1024)): took host" >&2
    name=host
  fi
  echo "$name"
}

model() { sed -n 's/^UHR_EDGE_MODEL=//p' "$etc/environment"; }

# What the profile allows, and 5 % for what an allocator keeps, in MiB; fails where the model doesn't fit. Not less: the daemon's own plan is more than `plan` says
# of a question (HTTP, the link), and a picture that can't be decoded by rows may take what the plan leaves.
memory() {
  local plan bytes
  plan=$("$bin" --profile "$etc/profile.toml" --model "$root$(model)" --json plan) || fail "$etc/profile.toml: wanted a profile that holds the model $(model): see above"
  bytes=$(printf '%s\n' "$plan" | sed -n 's/.*"limit_bytes":\([0-9]*\).*/\1/p')
  [ -n "$bytes" ] || fail "plan: wanted limit_bytes, found none"
  echo $((bytes * 105 / 100 / 1048576))
}
limited() { sed -n 's/^MemoryMax=\([0-9]*\)M$/\1/p' "$limits" 2> /dev/null | grep . || echo 0; }

limit() {
  local mib
  mib=$(memory)
  if [ "$(limited)" != "$mib" ]; then
    mkdir -p "$(dirname "$limits")"
    printf '# What the profile allows, and 5 %%: made by service.sh.\n[Service]\nMemoryMax=%sM\nMemorySwapMax=0\n' "$mib" > "$limits.new"
    mv "$limits.new" "$limits"
    changed=yes
    say "wrote $limits"
  fi
}

# Once the files are in place: profile, user, memory limit, and the service enabled and started.
setup() { # [PROFILE]
  if [ ! -e "$etc/profile.toml" ]; then
    local name=${1:-}
    [ -n "$name" ] || name=$(board_profile "$share/profiles")
    put "$share/profiles/$name.toml" "$etc/profile.toml" 644
  fi
  if [ -z "$root" ] && ! id uhr-edge > /dev/null 2>&1; then
    useradd --system --user-group --home-dir /var/lib/uhr-edge --no-create-home --shell /usr/sbin/nologin uhr-edge
  fi
  if [ ! -e "$limits" ] && [ "$start" = yes ] && can_enable; then systemctl --quiet enable uhr-edge.service; fi
  limit
  if running; then
    systemctl daemon-reload
    udevadm control --reload 2> /dev/null || true
    if [ "$start" = yes ] && systemctl --quiet is-enabled uhr-edge.service; then
      if [ "$changed" = yes ]; then systemctl restart uhr-edge.service; else systemctl start uhr-edge.service; fi
    fi
  fi
  say "installed: profile $etc/profile.toml, model $(model), memory limit $(limited) MiB"
}

# Before the files go: no service, no limit.
stop() {
  if can_enable && [ -e "$unit" ]; then
    systemctl --quiet disable uhr-edge.service
    if running; then systemctl stop uhr-edge.service; fi
  fi
  rm -f "$limits"
  (cd "$root/" && rmdir -p etc/systemd/system/uhr-edge.service.d 2> /dev/null) || true
}

reload() { if running; then systemctl daemon-reload; fi; }

# Settings, keys, journal, frames that came by HTTP, calibration, and the user. Capture folders elsewhere are not ours.
purge() {
  local gone
  for gone in "$etc" "$state"; do
    if [ -e "$gone" ]; then
      say "removing $gone: $(find "$gone" -type f | wc -l) files"
      rm -rf "$gone"
    fi
  done
  if [ -z "$root" ] && id uhr-edge > /dev/null 2>&1; then userdel uhr-edge; fi
}

kept() {
  local left
  for left in "$etc" "$state"; do
    if [ -e "$left" ]; then say "left $left: a purge takes it too"; fi
  done
}

limit_fits() { local mib; mib=$(memory) && [ "$(limited)" = "$mib" ]; }

check() {
  local bad=0
  want() { # LABEL COMMAND…
    if ("${@:2}" > /dev/null); then say "ok       $1"; else say "MISSING  $1"; bad=1; fi
  }
  want "$bin" test -x "$bin"
  want "$etc/profile.toml" test -r "$etc/profile.toml"
  want "$etc/environment" test -r "$etc/environment"
  want "$unit" test -r "$unit"
  want "$limits" test -r "$limits"
  want "$rules" test -r "$rules"
  if [ $bad = 0 ]; then
    want "the model in $(model), each file with its digest, and room for it" memory
    want "the memory limit of the profile" limit_fits
  fi
  if [ -z "$root" ]; then want "the user uhr-edge" id uhr-edge; fi
  if running && [ $bad = 0 ]; then want "the service is active" systemctl is-active --quiet uhr-edge.service; fi
  [ $bad = 0 ] || fail "not installed as it should be"
  say "all there"
}

main() {
  case ${DPKG_MAINTSCRIPT_NAME:-hand}:${1:-} in
    postinst:configure | postinst:abort-remove) changed=yes; setup ;;
    prerm:remove) stop ;;
    postrm:remove) reload; kept ;;
    postrm:purge) purge; reload ;;
    postinst:* | prerm:* | postrm:*) ;;
    hand:limit) as_root; limit; reload; say "memory limit $(limited) MiB; it holds from the next start: systemctl restart uhr-edge" ;;
    hand:check) check ;;
    *) echo "wanted limit or check, found ${1:-nothing}" >&2; exit 2 ;;
  esac
}
if [ "${BASH_SOURCE[0]}" = "$0" ]; then main "$@"; fi
