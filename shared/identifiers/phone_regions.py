"""What a phone number means as it is written: its canonical form; or, if it is written as in its
country, the number that libphonenumber reads, if that is valid.

The library takes some 60 µs a number, too much for files of millions. So the plain case, a national
number with or without its trunk prefix or country code, is recognised here by the library's own
tables. Whatever is not plain, or not valid, the library decides. A test holds both against each
other, in all regions.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import phonenumbers
from phonenumbers import (
    NumberParseException,
    PhoneMetadata,
    PhoneNumber,
    PhoneNumberFormat,
    shortnumberinfo,
)

from shared.identifiers.canonical import (
    canonical_phone_number,
    is_phone_number,
    is_spreadsheet_number,
)

NOT_A_PHONE_NUMBER = "phoneNumber is not a phone number"
SPREADSHEET_NUMBER = (
    "phoneNumber has a decimal point or an exponent, as spreadsheets write numbers; "
    "store it as text"
)

_PLAIN = re.compile(r"\+([0-9])(?!\1*\Z)[0-9]{2,19}")
# The 0 in +44 (0)20, which is not dialled from abroad.
_TRUNK_ZERO = re.compile(r"[(\uff08]\s*[0\uff10]\s*[)\uff09]")
_READABLE = re.compile(r"\+?[0-9][0-9/]*")

REGIONS = sorted(phonenumbers.SUPPORTED_REGIONS)
"""ISO 3166 codes of the countries and territories that have phone numbers."""

LONGEST_SHORT_CODE = 6  # digits
# Digits after a slash. So few are the end of a second number, as in 030 123456/57.
END_OF_ANOTHER = 4


def is_region(code: str | None) -> bool:
    """Whether `code` is the ISO 3166 code, in capitals, of a country that has phone numbers."""
    return code in phonenumbers.SUPPORTED_REGIONS


def phone_number(written: str, region: str | None) -> str:
    """The canonical form of the number that is `written`; empty where that is not a number. Digits
    behind a `+` are taken as they are.

    Digits without a `+` that have no reading stand for themselves, except those of a short code.
    """
    if _PLAIN.fullmatch(written):
        return written
    bare = canonical_phone_number(written)
    if not bare or is_spreadsheet_number(written):
        return ""
    if bare.startswith("+"):
        read = reading(bare, None) if "/" in bare or _TRUNK_ZERO.search(written) else None
    else:
        read = reading(bare, region) if region else None
        if region and not read and is_short_code(bare, region):
            return ""
    return read or (bare if is_phone_number(bare) else "")


def rival(written: str, number: str) -> str | None:
    """The digits `written` behind a plus, where `number` is another reading of them: this other
    number may be somebody else's.
    """
    bare = canonical_phone_number(written)
    other = "+" + bare.removeprefix("+").replace("/", "")
    return other if number not in {bare, other} and is_phone_number(other) else None


def reading(digits: str, region: str | None) -> str | None:
    """The valid number, in E.164, that `digits` mean in `region`; None where there is none.

    They may begin with `+`, which needs no region, and have slashes. Anything else has no reading:
    the library would take letters for digits, and drop an extension.
    """
    if not _READABLE.fullmatch(digits):
        return None
    country, national = _dialled(digits, region)
    if country and (plain := country.plainly(national, abroad=digits[0] == "+")) is not None:
        return f"+{country.code}{plain}" if plain else None
    if "/" in digits and len(digits) - digits.rindex("/") - 1 <= END_OF_ANOTHER:
        return None
    try:
        number = phonenumbers.parse(digits, region)
    except NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return str(phonenumbers.format_number(number, PhoneNumberFormat.E164))


def _dialled(digits: str, region: str | None) -> tuple["_Country | None", str]:
    """The country whose numbering plan `digits` follow, and the part of them behind its code; None
    where the library has to find out.
    """
    if not digits.removeprefix("+").isdecimal():
        return None, digits
    if not digits.startswith("+"):
        return _country(region) if region else None, digits
    for end in range(2, 5):
        if regions := phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(int(digits[1:end])):
            return _country(regions[0]) if is_region(regions[0]) else None, digits[end:]
    return None, digits


def is_short_code(digits: str, region: str) -> bool:
    """Whether `digits` are a number of the network, such as 112, and not a subscriber's."""
    if len(digits) > LONGEST_SHORT_CODE or not digits.isdecimal():
        return False
    number = PhoneNumber(country_code=int(_country(region).code), national_number=int(digits))
    return bool(shortnumberinfo.is_valid_short_number_for_region(number, region))


class _Kind(NamedTuple):
    """Numbers of one kind: how many digits they have, and which."""

    lengths: frozenset[int]
    pattern: re.Pattern[str]

    def has(self, number: str) -> bool:
        return len(number) in self.lengths and self.pattern.fullmatch(number) is not None


class _Country(NamedTuple):
    """What is needed of a region's table to recognise its plain numbers."""

    code: str
    abroad: re.Pattern[str]
    trunk: re.Pattern[str]
    general: _Kind
    sharing: Sequence[tuple[re.Pattern[str] | None, Sequence[_Kind]]]

    def plainly(self, digits: str, *, abroad: bool) -> str | None:
        """The valid national number that `digits` plainly are. They were dialled from `abroad` if a
        plus and the country's code stood before them.

        Empty where they are plainly not a number, None where neither is plain.
        """
        if not abroad and self.abroad.match(digits):
            return None
        is_national = self.general.has(digits)
        if not abroad and not is_national and digits.startswith(self.code):
            number = digits[len(self.code) :]
            is_plain = self.general.has(number) and not self.trunk.match(number)
        else:
            trunk = self.trunk.match(digits)
            number = digits[trunk.end() :] if trunk else digits
            is_plain = not trunk or (not is_national and not _captures(trunk))
        if is_plain and self.general.has(number) and self._is_valid(number):
            return number
        return "" if self._is_none(digits) else None

    def _is_none(self, digits: str) -> bool:
        """Whether nothing that the library could make of `digits`, by taking something away in
        front, is a valid number.
        """
        tried = [digits, digits.removeprefix(self.code)]
        for number in tried:
            if trunk := self.trunk.match(number):
                if trunk.re.groups or not trunk.end():
                    return False
                tried.append(number[trunk.end() :])
        return not any(map(self._is_valid, tried))

    def _is_valid(self, number: str) -> bool:
        """In the first of the regions with this code that claims the number."""
        for leading, kinds in self.sharing:
            is_known = any(kind.has(number) for kind in kinds)
            if leading.match(number) if leading else is_known:
                return is_known
        return False


def _captures(match: re.Match[str]) -> bool:
    """Whether what stands in front is to be changed, rather than taken away."""
    return bool(match.re.groups and match[match.re.groups])


@cache
def _country(region: str) -> _Country:
    table = _table(region)
    return _Country(
        str(table.country_code),
        _pattern(table.international_prefix),
        _pattern(table.national_prefix_for_parsing),
        next(iter(_kinds([table.general_desc]))),
        [
            _of_sharing(other)
            for other in phonenumbers.COUNTRY_CODE_TO_REGION_CODE[table.country_code]
        ],
    )


@cache
def _of_sharing(region: str) -> tuple[re.Pattern[str] | None, Sequence[_Kind]]:
    table = _table(region)
    kinds = (
        table.fixed_line,
        table.mobile,
        table.toll_free,
        table.premium_rate,
        table.shared_cost,
        table.voip,
        table.personal_number,
        table.pager,
        table.uan,
        table.voicemail,
    )
    return (re.compile(table.leading_digits) if table.leading_digits else None), list(_kinds(kinds))


def _table(region: str) -> Any:
    """The library's table, of which the types say that anything may be missing."""
    return PhoneMetadata.metadata_for_region(region, None)


def _kinds(descriptions: Iterable[Any]) -> Iterable[_Kind]:
    for described in descriptions:
        if described and described.national_number_pattern:
            yield _Kind(
                frozenset(described.possible_length), re.compile(described.national_number_pattern)
            )


def _pattern(written: str | None) -> re.Pattern[str]:
    """The pattern as `written`; without one, a pattern that nothing matches."""
    return re.compile(written or r"(?!)")
