"""What is committed is what the compiler makes of the source, and the calls name functions that it has."""

from __future__ import annotations

import re

import pytest

from quiver.live.chain import answers, calls
from quiver.live.chain.artefact import load_artefact
from tests.evm.compiled import ARTEFACT, SOURCE, compile_source, need_compiler, render
from tests.evm.samples import samples

# EIP-170 and EIP-3860: what a chain accepts as deployed code, and as the code that deploys it.
DEPLOYED_BYTES_MAX, DEPLOYING_BYTES_MAX = 24_576, 49_152


def test_the_committed_artefact_is_the_sources_byte_for_byte():
    need_compiler()
    assert ARTEFACT.read_text() == render(compile_source(SOURCE.read_text()))


def _type_of(argument):
    if not argument["type"].startswith("tuple"):
        return argument["type"]
    inner = ",".join(_type_of(component) for component in argument["components"])
    return f"({inner}){argument['type'].removeprefix('tuple')}"


def _signatures(kind):
    return {
        f"{entry['name']}({','.join(_type_of(argument) for argument in entry['inputs'])})"
        for entry in load_artefact().abi
        if entry["type"] == kind
    }


@pytest.mark.parametrize("transaction", samples(), ids=lambda transaction: type(transaction).__name__)
def test_every_transaction_calls_a_function_of_the_contract(transaction):
    selectors = {answers.selector(signature) for signature in _signatures("function")}
    assert calls.encode_call(transaction)[:4] in selectors


def test_every_event_that_is_read_is_one_of_the_contracts():
    topics = {answers.keccak256(signature.encode()) for signature in _signatures("event")}
    assert {answers.PAID, answers.EXIT_FINISHED, answers.UNBONDED, answers.ANSWERED, answers.SLASHED} <= topics


def test_the_code_fits_the_limits_of_a_chain():
    size = len(bytes.fromhex(load_artefact().bytecode[2:]))
    assert size + 9 * 32 <= DEPLOYING_BYTES_MAX
    # Without the part that deploys it, the code is shorter still.
    assert size <= DEPLOYED_BYTES_MAX


def test_every_refusal_of_the_contract_has_a_name_that_the_model_uses_or_only_a_chain_can_need():
    names = set(re.findall(r'assert .*, "([a-z_]+)"', SOURCE.read_text()))
    names |= set(re.findall(r'^    \), "([a-z_]+)"', SOURCE.read_text(), flags=re.M))
    package = SOURCE.parents[3] / "settlement"
    known = set(re.findall(r'SettlementError\(\s*"([a-z_]+)"', "".join(p.read_text() for p in package.glob("*.py"))))
    assert names - known == {"malformed_terms", "wrong_value", "transfer_failed"}
