"""`python -m quiver.live keys`: make, show, back up and restore the secret of a node, and change a payer's session key.

Nothing is ever overwritten.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from quiver.errors import UsageError
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import peer_id_text
from quiver.live import keyfile, process
from quiver.settlement.channel import session_at
from quiver.values.ledger import RotateSession

FORMAT = argparse.RawDescriptionHelpFormatter


def add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command line."""
    text = "Make, show, back up and restore the secret of a node."
    keys = commands.add_parser(
        "keys", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live keys init --key node.key\n"
        "  python -m quiver.live keys show --key node.key\n"
        "  python -m quiver.live keys backup --key node.key --out node.backup\n"
        "  python -m quiver.live keys restore --backup node.backup --key new.key\n"
        "  python -m quiver.live keys rotate --config gateway.toml\n\n"
        f"A passphrase is asked for, or read from --passphrase-file or the file {keyfile.PASSPHRASE_VARIABLE} names;\n"
        "a node with a locked key reads it from there too.",
    )  # fmt: skip
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("init", "a new key, under a passphrase"),
        ("show", "what others may know of a key"),
        ("backup", "a copy under a passphrase"),
        ("restore", "the key of a backup, as it was"),
    ):
        # No short forms: `--passphrase WORD` must not pass for --passphrase-file.
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        action.add_argument("--key", type=Path, required=True, metavar="FILE", help="the node's key file")
        if name == "backup":
            action.add_argument("--out", type=Path, required=True, metavar="FILE")
        if name == "restore":
            action.add_argument("--backup", type=Path, required=True, metavar="FILE")
        if name in ("init", "restore"):
            action.add_argument(
                "--plain", action="store_true", help="without a passphrase: whoever reads the file has it"
            )
        action.add_argument(
            "--passphrase-file", type=Path, metavar="FILE", help="private, with the passphrase in its line"
        )

    text = "a gateway: the next session key for each channel; until the delay is over, the old one signs"
    rotate = actions.add_parser("rotate", help=text, description=text, allow_abbrev=False)
    rotate.add_argument("--config", type=Path, required=True, metavar="FILE")


def run_keys(given: argparse.Namespace) -> int:
    """One action; says what others may know, never what they may not."""
    if given.action == "rotate":
        return process.run(lambda stop: _rotate(given.config))
    actions = {"init": _init, "show": _show, "backup": _backup, "restore": _restore}
    sys.stdout.write(actions[given.action](given) + "\n")
    return process.EXIT_DONE


def _init(given: argparse.Namespace) -> str:
    _check_free(given.key)
    passphrase = None
    if not given.plain:
        passphrase = keyfile.read_passphrase(str(given.key), given.passphrase_file, twice=True)
    return f"{given.key} is ready\n{_public(keyfile.create(given.key, passphrase))}"


def _show(given: argparse.Namespace) -> str:
    return _public(KeyPair(_seed(given)))


def _backup(given: argparse.Namespace) -> str:
    _check_free(given.out)
    seed = _seed(given)
    passphrase = keyfile.read_passphrase(str(given.out), given.passphrase_file, twice=True)
    keyfile.write(given.out, keyfile.lock(seed, passphrase))
    return f"{given.out} is a backup of\n{_public(KeyPair(seed))}"


def _restore(given: argparse.Namespace) -> str:
    _check_free(given.key)
    data = keyfile.read_locked(given.backup)
    passphrase = keyfile.read_passphrase(str(given.backup), given.passphrase_file)
    seed = keyfile.unlock(data, passphrase, where=str(given.backup))
    keyfile.write(given.key, seed if given.plain else data)
    return f"{given.key} is ready\n{_public(KeyPair(seed))}"


async def _rotate(config: Path) -> int:
    from quiver.live.settle_desk import opened_desk

    async with opened_desk(config, sends=True) as desk:
        account, now_ms = desk.keypair.account, desk.clock.utc_ms()
        own = [channel for channel, book in desk.read_books().channels.items() if book.payer == account]
        for channel in sorted(own):
            state = desk.ledger.channel(channel)
            if state is None or state.closed:
                continue
            if state.rotates_at_ms is not None and now_ms < state.rotates_at_ms:
                told = f"a change is under way until utc_ms {state.rotates_at_ms}"
            else:
                try:
                    new = desk.keypair.next_session(session_at(state, now_ms))
                except ValueError as error:
                    raise UsageError(f"channel {channel.hex()}: {error}; leave it, and open another") from error
                await desk.ledger.submit(RotateSession(sender=account, channel=channel, session=new))
                told = f"0x{new.hex()} signs in {desk.network.params.exit_delay_s:g} s"
            sys.stdout.write(f"{channel.hex()}: {told}\n")
        if not own:
            sys.stdout.write("this node pays for no channel\n")
    return process.EXIT_DONE


def _seed(given: argparse.Namespace) -> bytes:
    """A locked key's passphrase is that of --passphrase-file, for `backup` of the copy too."""
    passphrase = keyfile.read_passphrase(str(given.key), given.passphrase_file) if given.passphrase_file else None
    return keyfile.load_seed(given.key, passphrase)


def _check_free(path: Path) -> None:
    """Before a passphrase is asked for."""
    if path.exists():
        raise UsageError(f"{path} is already there and is not overwritten: choose another file")


def _public(keypair: KeyPair) -> str:
    return (
        f"peer:    {peer_id_text(keypair.peer_id)}\naccount: 0x{keypair.account.hex()}\n"
        f"session: 0x{keypair.session_address.hex()}"
    )
