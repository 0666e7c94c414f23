#!/usr/bin/env bash
# Seen: phonenumbers 9.0.43 (Python), google-libphonenumber 3.2.47 and libphonenumber-js 1.13.16 (npm), 27 November 2026.
#
# One expects: a word behind a number is an error, or is left out; and a number that is_valid_number() accepts is the one
# that was written. In fact Google's code reads letters as the keys of a telephone, and German numbers have no fixed
# length: grandmother's number becomes a valid number of somebody else. The port of another author leaves the word out, and
# calls its answer valid too. So one cell names two subscribers, by language. The second number of "… / 104" is glued to
# the first by all three, again into a valid one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet phonenumbers==9.0.43
npm install --silent --no-audit --no-fund --prefix "$work" google-libphonenumber@3.2.47 libphonenumber-js@1.13.16

cat >"$work/ask.py" <<'PYTHON'
import phonenumbers

for written in ("030 23125103", "030 23125103 Oma", "030 23125103 / 104"):
    number = phonenumbers.parse(written, "DE")
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    print("phonenumbers:", written, "->", e164, str(phonenumbers.is_valid_number(number)).lower())
PYTHON
cat >"$work/ask.mjs" <<'NODE'
import google from "google-libphonenumber";
import { parsePhoneNumber } from "libphonenumber-js/max";

const google_port = google.PhoneNumberUtil.getInstance();
for (const written of ["030 23125103", "030 23125103 Oma", "030 23125103 / 104"]) {
  const number = google_port.parse(written, "DE");
  console.log("google-libphonenumber:", written, "->", google_port.format(number, 0), google_port.isValidNumber(number));
  const other = parsePhoneNumber(written, "DE");
  console.log("libphonenumber-js:", written, "->", other.number, other.isValid());
}
NODE
{ "$work/python/bin/python" "$work/ask.py"; node "$work/ask.mjs"; } | sort | tee "$work/seen"

diff - "$work/seen" <<'EXPECTED'
google-libphonenumber: 030 23125103 -> +493023125103 true
google-libphonenumber: 030 23125103 / 104 -> +493023125103104 true
google-libphonenumber: 030 23125103 Oma -> +493023125103662 true
libphonenumber-js: 030 23125103 -> +493023125103 true
libphonenumber-js: 030 23125103 / 104 -> +493023125103104 true
libphonenumber-js: 030 23125103 Oma -> +493023125103 true
phonenumbers: 030 23125103 -> +493023125103 true
phonenumbers: 030 23125103 / 104 -> +493023125103104 true
phonenumbers: 030 23125103 Oma -> +493023125103662 true
EXPECTED
