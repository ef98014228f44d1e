#!/bin/sh
# Install Debian's Chromium for the tests that use the pages, unless there is one. Never fails: those tests are skipped.
set -u
for place in "${CHROMIUM:-}" "$(command -v chromium)" "$(command -v chromium-browser)" "$(command -v google-chrome)" /usr/bin/chromium; do
  if [ -n "$place" ] && [ -x "$place" ]; then
    echo "Chromium is there: $place"
    exit 0
  fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing chromium with apt-get"
  export DEBIAN_FRONTEND=noninteractive
  if (apt-get update -q && apt-get install -y -q --no-install-recommends chromium) >/tmp/anytask-chromium.log 2>&1; then
    echo "Chromium is there: $(command -v chromium)"
    exit 0
  fi
  tail -n 5 /tmp/anytask-chromium.log
fi
echo "Note: no Chromium, so the tests that use the pages are skipped. Install it as root with 'apt-get install chromium',"
echo "or with your system's package manager, or name yours: CHROMIUM=/path/to/chromium make test"
exit 0
