#!/usr/bin/env bash
# Seen: Python's phonenumbers 8.10.10, 8.13.0 and 9.0.43, 27 November 2026.
#
# One expects: the E.164 form of a number is the same whichever version of libphonenumber made it, and a number that was
# valid stays so. Of a Mexican mobile number with the 1 that was dialled until 2019, three versions make three answers:
# the 1 is kept and valid, dropped and valid, kept and not valid. So leads that two systems, or one system before and after
# an update, brought into "E.164" do not meet, and dropping the 1 again is the caller's business.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/ask.py" <<'PYTHON'
import phonenumbers

number = phonenumbers.parse("+52 1 55 1234 5678")
e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
print(phonenumbers.__version__, e164, "valid" if phonenumbers.is_valid_number(number) else "not valid")
PYTHON

for version in 8.10.10 8.13.0 9.0.43; do
  "${PYTHON:-python3}" -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet "phonenumbers==$version"
  "$work/$version/bin/python" "$work/ask.py"
done | tee "$work/seen"

diff - "$work/seen" <<'EXPECTED'
8.10.10 +5215512345678 valid
8.13.0 +525512345678 valid
9.0.43 +5215512345678 not valid
EXPECTED
