from src.core.errors import UsageError, UserError, unknown


def test_exit_codes_tell_misuse_from_failure() -> None:
    assert (UserError.exit_code, UsageError.exit_code) == (1, 2)


def test_unknown_name_proposes_nearest() -> None:
    assert str(unknown("model", "lava", ["clip", "llava"])) == "unknown model 'lava'; did you mean 'llava'?"
    assert str(unknown("model", "gpt", ["llava", "clip"])) == "unknown model 'gpt'; known: clip, llava"
