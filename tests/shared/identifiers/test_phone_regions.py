"""How numbers are read as their country writes them: what is read quickly must be what
libphonenumber itself reads.
"""

import random

import phonenumbers
import pytest
from phonenumbers import NumberParseException, PhoneNumberFormat

from shared.identifiers.phone_regions import REGIONS, phone_number, reading


@pytest.mark.parametrize(
    ("written", "region", "number"),
    [
        ("0170 1234567", "DE", "+491701234567"),
        ("030/1234567", "DE", "+49301234567"),
        ("491701234567", "DE", "+49491701234567"),  # a valid landline number, too
        ("01701234567", None, "01701234567"),
        ("(212) 555-0123", "US", "+12125550123"),
        ("1 212 555 0123", "US", "+12125550123"),
        ("011 49 170 1234567", "US", "+491701234567"),
        ("06 12345678", "IT", "+390612345678"),
        ("020 7946 0958", "GB", "+442079460958"),
        ("+44 (0)20 7946 0958", None, "+442079460958"),
        ("+44 (0)20 7946 0958", "US", "+442079460958"),
        ("\uff0b44\uff080\uff0920 7946 0958", None, "+442079460958"),
        ("+39 (0)6 12345678", None, "+390612345678"),
        ("+44 020 7946 0958", None, "+4402079460958"),  # digits behind a plus are taken as they are
        ("+49 30/1234567", None, "+49301234567"),
        ("+15555550123", "DE", "+15555550123"),
        ("00 49 170 1234567", "FR", "+491701234567"),
        ("0170 1234567", "FR", "01701234567"),  # not valid there: it stands for itself
        ("112", "DE", ""),
        ("911", "US", ""),
        ("110", None, "110"),
        ("030 1234567 ext. 12", "DE", ""),
        ("030 1234567x12", "DE", ""),
        ("+49 30 1234567;ext=12", None, ""),
        ("030 123456/57", "DE", ""),
        ("030 123456 Oma", "DE", ""),
        ("1-800-FLOWERS", "US", ""),
        ("N/A", "US", ""),
        ("15555550000.0", "US", ""),
    ],
)
def test_a_number_is_read_as_it_is_written_in_its_country(written, region, number):
    assert phone_number(written, region) == number


@pytest.mark.parametrize("region", REGIONS)
def test_readings_are_those_of_the_library(region):
    dice = random.Random(region)
    for digits in _tried(dice, region):
        assert reading(digits, region) == _by_library(digits, region), digits


def _tried(dice, region):
    """Numbers that are valid, nearly valid and not, with and without what may stand before them."""
    examples = [
        phonenumbers.example_number_for_type(region, kind)
        for kind in phonenumbers.PhoneNumberType.values()
    ]
    numbers = [
        phonenumbers.national_significant_number(example) for example in examples if example
    ] or ["123456789"]
    code = str(phonenumbers.country_code_for_region(region))
    trunk = phonenumbers.ndd_prefix_for_region(region, True) or "0"
    for _ in range(40):
        digits = list(dice.choice(numbers))
        for _ in range(dice.randint(0, 4)):
            digits[dice.randrange(len(digits))] = dice.choice("0123456789")
        number = "".join(digits)[: len(digits) + dice.choice([-1, 0, 0, 0, 0])] + dice.choice(
            ["", "", "", "7"]
        )
        before = [
            "",
            "",
            trunk,
            code,
            code + trunk,
            trunk * 2,
            "00" + code,
            "0",
            "1",
            "8",
            "15",
            f"+{code}",
            f"+{code}{trunk}",
        ]
        yield dice.choice(before) + number


def _by_library(digits, region):
    try:
        number = phonenumbers.parse(digits, region)
    except NumberParseException:
        return None
    return (
        phonenumbers.format_number(number, PhoneNumberFormat.E164)
        if phonenumbers.is_valid_number(number)
        else None
    )
