#!/usr/bin/env bash
# Seen: libphonenumber-js 1.13.16 (npm), 27 November 2026.
#
# One expects: the same text is read the same way each time. A tel: URI with a phone-context (RFC 3966), as phone books
# and vCards have them, is read the first time, not the second, read the third: every other one of a list is missing,
# without an error, and which depends on how many came before. (It looks like a regular expression that remembers where it
# stopped.) A tel: URI in its global form is read each time.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

npm install --silent --no-audit --no-fund --prefix "$work" libphonenumber-js@1.13.16
cat >"$work/ask.mjs" <<'NODE'
import { parsePhoneNumberFromString as read } from "libphonenumber-js";

for (const uri of ["tel:23125103;phone-context=+4930", "tel:+49-30-23125103"]) {
  const numbers = Array.from({ length: 4 }, () => read(uri)?.number ?? "nothing");
  console.log(uri, "->", ...numbers);
}
NODE
node "$work/ask.mjs" | tee "$work/seen"

diff - "$work/seen" <<'EXPECTED'
tel:23125103;phone-context=+4930 -> +493023125103 nothing +493023125103 nothing
tel:+49-30-23125103 -> +493023125103 +493023125103 +493023125103 +493023125103
EXPECTED
