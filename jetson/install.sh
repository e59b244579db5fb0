#!/bin/bash
# Installs uhr-edge as a service, checks an installation, or takes it away again. Twice is as once. From the sources after `cargo build --release`, or from a
# release's archive; the Debian package does the same by itself.
#
#   sudo ./install.sh [--profile NAME] [--binary FILE] [--model DIR] [--root DIR] [--no-start]
#   ./install.sh --check [--root DIR]
#   sudo ./install.sh --uninstall [--purge] [--root DIR]
#
# --profile: without it the board's own, or host.
# --root: everything goes below that folder and no service is started: for images that are being made, and for tests.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
action=install profile='' binary='' model='' root='' start=yes purge=no
while [ $# -gt 0 ]; do
  case $1 in
    --check) action=check ;;
    --uninstall) action=uninstall ;;
    --purge) purge=yes ;;
    --no-start) start=no ;;
    --profile | --binary | --model | --root)
      # An empty one is a variable that isn't set: never the machine's own root.
      [ -n "${2-}" ] || { echo "$1: wanted a value, found none" >&2; exit 2; }
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
source_model=$(realpath -- "${model:-$here/../models/uhr-nano}")
# shellcheck source-path=SCRIPTDIR source=service.sh
. "$here/service.sh"

# What dpkg put in place, dpkg takes away.
not_packaged() {
  [ -n "$root" ] || [ "$(dpkg-query -W -f '${db:Status-Abbrev}' uhr-edge 2> /dev/null | cut -c2)" != i ] ||
    fail "uhr-edge is here as a Debian package: wanted none beside it; 'apt remove uhr-edge' takes it away, 'apt install ./uhr-edge_….deb' renews it"
}

install_all() {
  as_root
  not_packaged
  if [ -n "$profile" ] && [ ! -e "$here/../firmware-config/$profile.toml" ]; then
    echo "--profile: wanted one of $(profiles "$here/../firmware-config"), found $profile" >&2
    exit 2
  fi
  # An archive has its program beside it, the sources what was built last.
  local from_binary=$binary
  if [ -z "$from_binary" ]; then
    from_binary=$here/../bin/uhr-edge
    [ -e "$from_binary" ] || from_binary=$here/../target/release/uhr-edge
  fi
  local file
  for file in "$from_binary" "$source_model/model.toml"; do
    [ -e "$file" ] || fail "wanted $file, found none: build with 'cargo build --release', or say --binary and --model"
  done
  put "$from_binary" "$bin" 755
  put "$here/service.sh" "$share/service.sh" 755
  local to
  to=$share/models/$(basename "$source_model")
  case ${to##*/} in *[!A-Za-z0-9._-]*) fail "--model: wanted a folder whose name is of letters, digits, '.', '_' and '-', found ${to##*/}" ;; esac
  # What the package no longer has would be a file that its manifest doesn't list.
  if [ -d "$to" ]; then
    while IFS= read -r file; do [ -e "$source_model/$file" ] || rm -f "$to/$file"; done < <(cd "$to" && find . -path ./engines -prune -o -type f -printf '%P\n')
  fi
  # Engines are of the machine that built them.
  while IFS= read -r file; do put "$source_model/$file" "$to/$file" 644; done < <(cd "$source_model" && find . -path ./engines -prune -o -type f -printf '%P\n')
  for file in "$here"/../firmware-config/*.toml; do put "$file" "$share/profiles/$(basename "$file")" 644; done
  for file in "$here"/../samples/{drawn.jpg,drawn.json,LIC*}; do put "$file" "$share/samples/$(basename "$file")" 644; done
  for file in "$here"/../docs/*.md; do put "$file" "$doc/$(basename "$file")" 644; done
  put "$here/../docs/qgroundcontrol/CustomActions.json" "$doc/qgroundcontrol/CustomActions.json" 644
  put "$here/../LICENSE" "$doc/copyright" 644
  put "$here/uhr-edge.service" "$unit" 644
  put "$here/99-uhr-edge-radio.rules" "$rules" 644
  # An environment or a profile that somebody changed is theirs.
  if [ ! -e "$etc/environment" ]; then
    mkdir -p "$etc"
    sed "s|^UHR_EDGE_MODEL=.*|UHR_EDGE_MODEL=${to#"$root"}|" "$here/environment" > "$etc/environment.new"
    mv "$etc/environment.new" "$etc/environment"
    say "wrote $etc/environment"
  fi
  setup "$profile"
}

uninstall() {
  as_root
  not_packaged
  stop
  rm -f "$bin" "$unit" "$rules"
  rm -rf "$share" "$doc"
  if [ $purge = yes ]; then purge; else kept; fi
  reload
  say "uninstalled"
}

case $action in
  install) install_all ;;
  check) check ;;
  uninstall) uninstall ;;
esac
