#!/bin/sh
# Installs uhr-edge as a service, checks an installation, or takes it away again. Twice is as once.
#
#   sudo ./install.sh [--profile NAME] [--binary FILE] [--model DIR] [--root DIR] [--no-start]
#   ./install.sh --check [--root DIR]
#   sudo ./install.sh --uninstall [--purge] [--root DIR]
#
# --root: everything goes below that folder and no service is started: for images that are being made, and for tests.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
action=install profile=orin-nx-16 binary= model= root= start=yes purge=no
while [ $# -gt 0 ]; do
  case $1 in
    --check) action=check ;;
    --uninstall) action=uninstall ;;
    --purge) purge=yes ;;
    --no-start) start=no ;;
    --profile | --binary | --model | --root)
      [ $# -ge 2 ] || { echo "$1: wanted a value, found none" >&2; exit 2; }
      case $1 in
        --profile) profile=$2 ;;
        --binary) binary=$2 ;;
        --model) model=$2 ;;
        --root) root=${2%/} start=no ;;
      esac
      shift ;;
    *) echo "$1: wanted --check, --uninstall, --purge, --no-start, --profile, --binary, --model or --root" >&2; exit 2 ;;
  esac
  shift
done

bin=$root/usr/bin/uhr-edge
share=$root/usr/share/uhr-edge
etc=$root/etc/uhr-edge
unit=$root/usr/lib/systemd/system/uhr-edge.service
limits=$root/etc/systemd/system/uhr-edge.service.d/memory.conf
rules=$root/usr/lib/udev/rules.d/99-uhr-edge-radio.rules
state=$root/var/lib/uhr-edge

say() { printf '%s\n' "$*"; }
# A file is put in place whole, and only where it differs.
put() { # FROM TO MODE
  if ! cmp -s "$1" "$2"; then
    mkdir -p "$(dirname "$2")"
    install -m "$3" "$1" "$2.new" && mv "$2.new" "$2"
    say "wrote $2"
  fi
}
# What the profile plans for, and 15 %, in MiB.
memory() {
  bytes=$("$bin" --profile "$etc/profile.toml" --model "$1" --json plan | sed -n 's/.*"total_bytes":\([0-9]*\).*/\1/p')
  [ -n "$bytes" ] || { echo "plan: wanted a total, found none: the profile doesn't hold this model" >&2; return 1; }
  echo $((bytes / 1048576 * 115 / 100 + 1))
}
limited() { sed -n 's/^MemoryMax=\([0-9]*\)M$/\1/p' "$limits" 2> /dev/null | grep . || echo 0; }
running() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

install_all() {
  [ -n "$root" ] || [ "$(id -u)" = 0 ] || { echo "wanted root, found $(id -un)" >&2; exit 1; }
  source_binary=${binary:-$here/../target/release/uhr-edge}
  source_model=${model:-$here/../models/uhr-nano}
  for file in "$source_binary" "$source_model/model.toml"; do
    [ -e "$file" ] || { echo "wanted $file, found none: build with 'cargo build --release', or say --binary and --model" >&2; exit 1; }
  done
  put "$source_binary" "$bin" 755
  to=$share/models/$(basename "$source_model")
  # Engines are of the machine that built them.
  mkdir -p "$etc"
  (cd "$source_model" && find . -path ./engines -prune -o -type f -print | sed 's|^\./||') > "$etc/.files"
  while IFS= read -r file; do put "$source_model/$file" "$to/$file" 644; done < "$etc/.files"
  rm "$etc/.files"
  # A profile that somebody changed is theirs.
  if [ ! -e "$etc/profile.toml" ]; then
    source_profile=$here/../firmware-config/$profile.toml
    [ -e "$source_profile" ] || { echo "--profile: wanted one of $(cd "$here/../firmware-config" && ls ./*.toml | sed 's|./||; s|.toml||' | tr '\n' ' '), found $profile" >&2; exit 2; }
    put "$source_profile" "$etc/profile.toml" 644
  fi
  if [ ! -e "$etc/environment" ]; then
    sed "s|^UHR_EDGE_MODEL=.*|UHR_EDGE_MODEL=${to#"$root"}|" "$here/environment" > "$etc/environment.new"
    mv "$etc/environment.new" "$etc/environment"
    say "wrote $etc/environment"
  fi
  put "$here/uhr-edge.service" "$unit" 644
  put "$here/99-uhr-edge-radio.rules" "$rules" 644
  for page in "$here"/../docs/*.md; do put "$page" "$root/usr/share/doc/uhr-edge/$(basename "$page")" 644; done
  mib=$(memory "$to")
  # What the process itself takes differs by a little from one start to the next: a limit that is as good stays.
  now=$(limited)
  if [ "$now" -lt "$((mib * 97 / 100))" ] || [ "$now" -gt "$((mib * 103 / 100))" ]; then
    mkdir -p "$(dirname "$limits")"
    printf '# What `uhr-edge plan` says of the profile, and 15 %%: made by install.sh.\n[Service]\nMemoryMax=%sM\nMemorySwapMax=0\n' "$mib" > "$limits.new"
    mv "$limits.new" "$limits"
    say "wrote $limits"
  fi
  if [ -z "$root" ]; then
    id uhr-edge > /dev/null 2>&1 || useradd --system --home-dir /var/lib/uhr-edge --shell /usr/sbin/nologin uhr-edge
  fi
  if running; then
    systemctl daemon-reload
    udevadm control --reload 2> /dev/null || true
    [ $start = no ] || systemctl enable --now uhr-edge.service
  fi
  say "installed: profile $etc/profile.toml, model $to, memory limit $(limited) MiB"
}

check() {
  bad=0
  want() { if eval "$2"; then say "ok       $1"; else say "MISSING  $1"; bad=1; fi; }
  want "$bin" '[ -x "$bin" ]'
  want "$etc/profile.toml" '[ -r "$etc/profile.toml" ]'
  want "$etc/environment" '[ -r "$etc/environment" ]'
  want "$unit" '[ -r "$unit" ]'
  want "$limits" '[ -r "$limits" ]'
  want "$rules" '[ -r "$rules" ]'
  if [ $bad = 0 ]; then
    named=$(sed -n 's/^UHR_EDGE_MODEL=//p' "$etc/environment")
    want "the model in $named, each file with its digest, and room for it" 'mib=$(memory "$root$named")'
    want "a memory limit that the profile's plan fits" '[ "$(limited)" -ge "$((mib * 97 / 100))" ]'
  fi
  if running && [ $bad = 0 ]; then
    want "the user uhr-edge" 'id uhr-edge > /dev/null 2>&1'
    want "the service is active" 'systemctl is-active --quiet uhr-edge.service'
  fi
  [ $bad = 0 ] || { say "not installed as it should be"; exit 1; }
  say "all there"
}

uninstall() {
  [ -n "$root" ] || [ "$(id -u)" = 0 ] || { echo "wanted root, found $(id -un)" >&2; exit 1; }
  if running; then systemctl disable --now uhr-edge.service 2> /dev/null || true; fi
  rm -f "$bin" "$unit" "$limits" "$rules"
  rmdir "$(dirname "$limits")" 2> /dev/null || true
  rm -rf "$share" "$root/usr/share/doc/uhr-edge"
  if [ $purge = yes ]; then
    rm -rf "$etc" "$state"
    if [ -z "$root" ] && id uhr-edge > /dev/null 2>&1; then userdel uhr-edge; fi
  else
    for left in "$etc" "$state"; do [ ! -e "$left" ] || say "left $left: --purge takes it too"; done
  fi
  if running; then systemctl daemon-reload; fi
  say "uninstalled"
}

case $action in
  install) install_all ;;
  check) check ;;
  uninstall) uninstall ;;
esac
