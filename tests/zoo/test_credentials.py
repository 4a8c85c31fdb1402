"""No password or key leaves in any text, whatever the URL that holds it looks like."""

from __future__ import annotations

import json
import string
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from epsopt.zoo.credentials import MASK, has_credentials, masked, masked_url
from epsopt.zoo.errors import CatalogueError, EpsoptError, UnreadableCheckpoint

# What stands around a secret must not look like it: secrets hold capitals and marks, all else is small.
SECRETS = st.text(string.ascii_uppercase + string.digits + "!$%^*()_+-={}[]|:~`,.;#/@\\?é", min_size=3, max_size=16)
SCHEMES = st.sampled_from(
    ["postgresql", "postgresql+psycopg", "postgres", "mysql+pymysql", "redis", "https", "ftp", "s3", "sftp", "smb"]
)
PARAMETERS = st.sampled_from(
    ["password", "sslpassword", "passwd", "pwd", "token", "access_token", "sig", "X-Amz-Signature", "api_key", "secret"]
)


def seen(secret: str, text: str) -> bool:
    """Whether three characters in a row of the secret are in a text, other than by chance."""
    parts = (secret[i : i + 3] for i in range(len(secret) - 2))
    return any(part in text for part in parts if not set(part) <= set("*:@/?#."))


def sure(secret: str) -> None:
    """No part of it is what a URL has anyway: digits alone may be a port, and marks alone are everywhere."""
    assume(not secret.isdigit())
    assume(any(c in string.ascii_uppercase for c in secret[:2]))


@given(SCHEMES, SECRETS, st.sampled_from(["{}", "cannot connect to {} (is it there?)", "'{}': {}", '"{}"', "[{}]"]))
@example("postgresql", "P@SS/W", "{}")
@example("s3", "WJALR/XUT+N", "{}")
def test_the_password_of_a_url_is_hidden_alone_and_in_a_message(scheme, secret, message):
    sure(secret)
    for written in (secret, quote(secret, safe="")):
        url = f"{scheme}://ann:{written}@host.example/name"
        text = masked(message.format(url, url))
        assert not seen(secret, text), text
        assert not seen(written.replace("%", "~"), text.replace("%", "~")), text
        assert "ann" in text
        assert masked(text) == text
        assert masked_url(url) == f"{scheme}://ann:{MASK}@host.example/name"
        assert not seen(secret, str(EpsoptError(message.format(url, url))))


@given(SCHEMES, SECRETS, PARAMETERS)
def test_the_value_of_a_secret_parameter_is_hidden_and_the_others_stay(scheme, secret, name):
    value = quote(secret, safe="")
    url = f"{scheme}://host.example/name?user=ann&{name}={value}&sslmode=require"
    for text in (masked(url), masked_url(url), masked(f"{url!r} does not answer")):
        assert f"{name}={MASK}&sslmode=require" in text
        assert "user=ann" in text
    assert has_credentials(url)


@given(SECRETS, st.sampled_from(["postgresql://ann:{}", "postgresql://ann:{}/name", "postgresql:/ann:{}@host/name",
                                 "postgresql://ann:{}@host:port/name", "postgresql://ann:{}@", "postgres://a/n:{}@h/n",
                                 "postgresql://ann:{}@host@other/name", "ann:{}@host/name"]))  # fmt: skip
def test_the_password_of_a_malformed_url_is_hidden(secret, form):
    sure(secret)
    assume(not secret.startswith("/"))
    assume("@" in form or not {"@", "?"} & set(secret))  # what follows is a host or a query, as far as anybody can tell
    assert not seen(secret, masked_url(form.format(secret))), masked_url(form.format(secret))


@given(SECRETS)
def test_a_password_with_spaces_is_hidden_where_the_whole_text_is_the_url(secret):
    sure(secret)
    text = masked_url(f"postgresql://ann:{secret} {secret}@host/name?password={secret} {secret}".replace("&", ""))
    assert not seen(secret, text), text


SETTINGS = st.sampled_from(["password={}", "host=h password={} port=1", "sslpassword = {}", "aws_secret_access_key={}"])


@given(SECRETS, SETTINGS)
def test_settings_of_a_connection_are_hidden(secret, form):
    sure(secret)
    assume("&" not in secret and secret[0] not in "'\"")
    assert not seen(secret, masked(form.format(secret)))


def test_mappings_that_are_printed_hide_theirs():
    held = {"user": "ann", "password": "O'NE \" TWO", "port": 5432}
    for text in (repr(held), json.dumps(held)):
        shown = masked(text)
        assert "TWO" not in shown
        assert "5432" in shown
        assert "ann" in shown


def test_what_a_driver_says_of_a_url_hides_its_password_wherever_it_stands():
    url = "postgresql+psycopg://ann:TOP%20SECRET@host/name?sslpassword=SSLSECRET"
    said = 'FATAL: "TOP SECRET" and TOP%20SECRET and SSLSECRET are no good'
    assert masked(said, url) == f'FATAL: "{MASK}" and {MASK} and {MASK} are no good'


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/ann:b/a@b.db", "sqlite:///epsopt.db", "postgresql+psycopg://ann@host:5432/name",
        "s3://bucket/run:1/epoch@3.pt", "http://127.0.0.1:8080/", "http://host:8080/a@b", "https://[::1]:80/x",
        "the dashboard has no passwords: use 127.0.0.1", "run_003:7 of ann@host", "ssh://git@host/x",
        "max_token=5, sigma=0.1, key=3", "file:///a:b@c", "the monkey=banana", "see https://host/a:b",
        "http://127.0.0.1:8080, or http://localhost:8080.",
    ],
)  # fmt: skip
def test_what_holds_no_password_stays_as_it_is(text):
    assert masked(text) == text
    if " " not in text:
        assert masked_url(text) == text


def test_every_error_of_ours_is_masked_when_it_is_made():
    url = "postgresql://ann:SECRET@host/name"
    assert "SECRET" not in str(CatalogueError(f"{url} does not answer"))
    unreadable = UnreadableCheckpoint("a.pt", f"{url} does not answer")
    assert "SECRET" not in unreadable.reason + str(unreadable)
