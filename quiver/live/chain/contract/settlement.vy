# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title QUIVer settlement
@license Apache-2.0
@notice Channels, roots, bonds and challenges (docs/protocol.md, section 6). The pure model in quiver/settlement refuses by the
        same names, checked in the same order; a test drives both side by side.
@dev    Credits are 8 bytes: no sum of them can overflow, and a claim reads two words and writes two. Payments stay inside as
        free balances until `withdraw`, so claims call nobody. Times are milliseconds.
"""

from ethereum.ercs import IERC20


event Deposited:
    account: indexed(address)
    amount: uint256

event Withdrawn:
    account: indexed(address)
    amount: uint256

event Opened:
    channel: indexed(bytes32)
    payer: indexed(address)
    provider: indexed(address)
    session: address
    amount: uint256
    nonce: uint64

event ToppedUp:
    channel: indexed(bytes32)
    amount: uint256

event SessionRotated:
    channel: indexed(bytes32)
    session: address
    from_ms: uint256

event EpochSubmitted:
    epoch: indexed(uint64)
    poster: indexed(address)
    root: bytes32
    count: uint256

event Paid:
    channel: indexed(bytes32)
    provider: indexed(address)
    amount: uint256

event ExitRequested:
    channel: indexed(bytes32)
    exit_at_ms: uint256

event ExitFinished:
    channel: indexed(bytes32)
    refunded: uint256

event Bonded:
    account: indexed(address)
    amount: uint256
    signer: address

event UnbondRequested:
    account: indexed(address)
    unbond_at_ms: uint256

event Unbonded:
    account: indexed(address)
    amount: uint256

event Challenged:
    fault: indexed(uint256)
    epoch: indexed(uint64)
    subject: indexed(bytes32)
    challenger: address
    respond_by_ms: uint256

event Answered:
    fault: indexed(uint256)
    epoch: indexed(uint64)
    subject: indexed(bytes32)
    answerer: address

event Slashed:
    fault: indexed(uint256)
    epoch: indexed(uint64)
    subject: indexed(bytes32)
    poster: address
    amount: uint256
    reward: uint256


struct Signature:
    r: bytes32
    s: bytes32
    v: uint256  # 0 or 1

struct Ack:
    channel: bytes32
    cum: uint64
    seq: uint64
    head: bytes32
    signature: Signature

struct Leaf:
    epoch: uint64
    channel: bytes32
    cum: uint64
    seq: uint64
    head: bytes32

struct ChannelView:
    payer: address
    provider: address
    session: address
    locked: uint256
    paid: uint256
    exit_at_ms: uint256
    closed: bool
    next_session: address
    rotates_at_ms: uint256

struct EpochView:
    root: bytes32
    poster: address
    count: uint256
    submitted_ms: uint256

struct BondView:
    signer: address
    amount: uint256
    challenges: uint256
    unbond_at_ms: uint256

struct ChallengeView:
    challenger: address
    respond_by_ms: uint256
    verdict: uint256


SUPPLY_MAX: constant(uint256) = 2**63 - 1
COUNT_MAX: constant(uint256) = 2**40 - 1
BATCH_MAX: constant(uint256) = 64
LEVELS_MAX: constant(uint256) = 40  # a count has 40 bits
FAULTS_PER_BOND: constant(uint256) = 20
STAKES_PER_SLASH: constant(uint256) = 10
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168  # of secp256k1, halved

# What a word holds, from its low bits up.
ADDRESS: constant(uint256) = 2**160 - 1
AMOUNT: constant(uint256) = 2**64 - 1
TIME: constant(uint256) = 2**48 - 1
CLOSED: constant(uint256) = 2**224    # of a session word
EXITING: constant(uint256) = 2**225
ROTATED: constant(uint256) = 2**226
COUNT_ONE: constant(uint256) = 2**224  # of a bond word: open challenges, 24 bits
COUNT_BITS: constant(uint256) = 2**24 - 1
UNBONDING: constant(uint256) = 2**248

OMISSION: constant(uint256) = 1
LEAF: constant(uint256) = 2
HEAD: constant(uint256) = 3

OPEN: constant(uint256) = 1
ANSWERED: constant(uint256) = 2
SLASHED: constant(uint256) = 3

ACK_DOMAIN: immutable(bytes32)
PROMISE_DOMAIN: immutable(bytes32)
COMMITMENT_DOMAIN: immutable(bytes32)
AGGREGATOR: immutable(address)
TOKEN: immutable(address)
UNIT: immutable(uint256)
EPOCH_MS: immutable(uint256)
GRACE_MS: immutable(uint256)
EXIT_DELAY_MS: immutable(uint256)
WINDOW_MS: immutable(uint256)
RESPOND_MS: immutable(uint256)
SLASH: immutable(uint256)

deposited: public(uint256)
burnt: public(uint256)
balances: HashMap[address, uint256]
session_words: HashMap[bytes32, uint256]   # session | locked | flags
provider_words: HashMap[bytes32, uint256]  # provider | paid
payer_words: HashMap[bytes32, uint256]     # payer | exit_at_ms
next_words: HashMap[bytes32, uint256]      # next session | rotates_at_ms
roots: HashMap[uint64, bytes32]
poster_words: HashMap[uint64, uint256]     # poster | count | submitted_ms
bond_words: HashMap[address, uint256]      # signer | amount | open challenges | flag
unbond_at_ms: HashMap[address, uint256]
challenge_words: HashMap[bytes32, uint256]  # challenger | respond_by_ms | verdict


@deploy
def __init__(
    aggregator: address, token: address, unit: uint256, epoch_ms: uint256, grace_ms: uint256, exit_delay_ms: uint256,
    window_ms: uint256, respond_ms: uint256, slash: uint256,
):
    """
    @param token An ERC-20 contract, or zero for the chain's own coin
    @param unit What one credit is worth in the smallest unit of the token or coin
    @param slash Credits that a proven fault costs; a bond is 20 of them
    """
    assert unit > 0 and epoch_ms > 0 and slash <= SUPPLY_MAX // FAULTS_PER_BOND, "malformed_terms"
    # What a poster can be accused of is over before its bond can leave, and a key that signed for a leaf is still known.
    assert window_ms + respond_ms <= exit_delay_ms and exit_delay_ms < 2**40, "malformed_terms"
    AGGREGATOR = aggregator
    TOKEN = token
    UNIT = unit
    EPOCH_MS = epoch_ms
    GRACE_MS = grace_ms
    EXIT_DELAY_MS = exit_delay_ms
    WINDOW_MS = window_ms
    RESPOND_MS = respond_ms
    SLASH = slash
    place: Bytes[52] = concat(convert(chain.id, bytes32), convert(self, bytes20))
    ACK_DOMAIN = sha256(concat(b"QUIVer/ack/v1", place))
    PROMISE_DOMAIN = sha256(concat(b"QUIVer/promise/v1", place))
    COMMITMENT_DOMAIN = sha256(concat(b"QUIVer/commitment/v1", place))


# views

@external
@view
def terms() -> (address, address, uint256, uint256, uint256, uint256, uint256, uint256, uint256):
    return (AGGREGATOR, TOKEN, UNIT, EPOCH_MS, GRACE_MS, EXIT_DELAY_MS, WINDOW_MS, RESPOND_MS, SLASH)


@external
@view
def free(account: address) -> uint256:
    return self.balances[account]


@external
@view
def channel(channel_id: bytes32) -> ChannelView:
    """
    @notice All zero if it was never opened
    """
    session: uint256 = self.session_words[channel_id]
    provider: uint256 = self.provider_words[channel_id]
    payer: uint256 = self.payer_words[channel_id]
    following: uint256 = self.next_words[channel_id]
    return ChannelView(
        payer=self._account(payer),
        provider=self._account(provider),
        session=self._account(session),
        locked=(session >> 160) & AMOUNT,
        paid=(provider >> 160) & AMOUNT,
        exit_at_ms=payer >> 160,
        closed=session & CLOSED != 0,
        next_session=self._account(following),
        rotates_at_ms=following >> 160,
    )


@external
@view
def epoch(number: uint64) -> EpochView:
    """
    @notice All zero if it has no root
    """
    word: uint256 = self.poster_words[number]
    return EpochView(
        root=self.roots[number],
        poster=self._account(word),
        count=(word >> 160) & COUNT_MAX,
        submitted_ms=word >> 200,
    )


@external
@view
def bond_of(account: address) -> BondView:
    word: uint256 = self.bond_words[account]
    return BondView(
        signer=self._account(word),
        amount=(word >> 160) & AMOUNT,
        challenges=(word >> 224) & COUNT_BITS,
        unbond_at_ms=self.unbond_at_ms[account],
    )


@external
@view
def challenge(fault: uint256, epoch: uint64, subject: bytes32) -> ChallengeView:
    """
    @notice Verdict 0 is none, 1 open, 2 answered, 3 slashed
    """
    word: uint256 = self.challenge_words[self._challenge_key(fault, epoch, subject)]
    return ChallengeView(challenger=self._account(word), respond_by_ms=(word >> 160) & TIME, verdict=word >> 208)


# money in and out

@external
@payable
@nonreentrant
def deposit(amount: uint256):
    """
    @notice `amount` credits for the sender, who sends exactly their value along or has approved it
    """
    assert 0 < amount and amount <= SUPPLY_MAX, "amount_out_of_range"
    assert self.deposited + amount <= SUPPLY_MAX, "supply_exceeded"
    if TOKEN == empty(address):
        assert msg.value == amount * UNIT, "wrong_value"
    else:
        assert msg.value == 0, "wrong_value"
        before: uint256 = staticcall IERC20(TOKEN).balanceOf(self)
        assert extcall IERC20(TOKEN).transferFrom(msg.sender, self, amount * UNIT, default_return_value=True), "transfer_failed"
        # A token that keeps a fee would leave credits without cover.
        assert staticcall IERC20(TOKEN).balanceOf(self) - before == amount * UNIT, "transfer_failed"
    self.deposited += amount
    self.balances[msg.sender] += amount
    log Deposited(account=msg.sender, amount=amount)


@external
@nonreentrant
def withdraw(amount: uint256):
    """
    @notice Free credits of the sender leave as coin
    """
    self._spend(msg.sender, amount)
    log Withdrawn(account=msg.sender, amount=amount)
    if TOKEN == empty(address):
        raw_call(msg.sender, b"", value=amount * UNIT)
    else:
        assert extcall IERC20(TOKEN).transfer(msg.sender, amount * UNIT, default_return_value=True), "transfer_failed"


# channels

@external
def open(provider: address, session: address, amount: uint256, nonce: uint64) -> bytes32:
    assert provider != empty(address) and session != empty(address), "malformed_address"
    channel_id: bytes32 = sha256(
        concat(ACK_DOMAIN, convert(msg.sender, bytes20), convert(provider, bytes20), convert(nonce, bytes8))
    )
    assert self.session_words[channel_id] == 0, "channel_exists"
    self._spend(msg.sender, amount)
    self.session_words[channel_id] = convert(session, uint256) | (amount << 160)
    self.provider_words[channel_id] = convert(provider, uint256)
    self.payer_words[channel_id] = convert(msg.sender, uint256)
    log Opened(
        channel=channel_id, payer=msg.sender, provider=provider, session=session, amount=amount, nonce=nonce
    )
    return channel_id


@external
def top_up(channel_id: bytes32, amount: uint256):
    word: uint256 = self._check_payer(channel_id)
    assert word & EXITING == 0, "exit_pending"
    self._spend(msg.sender, amount)
    self.session_words[channel_id] = word + (amount << 160)
    log ToppedUp(channel=channel_id, amount=amount)


@external
def rotate_session_key(channel_id: bytes32, session: address):
    """
    @notice From a delay on, `session` acknowledges instead
    """
    assert session != empty(address), "malformed_address"
    word: uint256 = self._check_payer(channel_id)
    if word & ROTATED != 0:
        following: uint256 = self.next_words[channel_id]
        assert self._now_ms() >= following >> 160, "rotation_pending"
        word = (word & ~ADDRESS) | (following & ADDRESS)
    from_ms: uint256 = self._now_ms() + EXIT_DELAY_MS
    self.session_words[channel_id] = word | ROTATED
    self.next_words[channel_id] = convert(session, uint256) | (from_ms << 160)
    log SessionRotated(channel=channel_id, session=session, from_ms=from_ms)


@external
def claim(epoch: uint64, ack: Ack, index: uint256, siblings: DynArray[bytes32, LEVELS_MAX]):
    """
    @notice Pay the provider what the payer acknowledged, shown to be under the epoch's root. Anyone may send it
    """
    self._check_proof(
        Leaf(epoch=epoch, channel=ack.channel, cum=ack.cum, seq=ack.seq, head=ack.head), index, siblings
    )
    self._pay_one(ack)


@external
def claim_direct(ack: Ack):
    """
    @notice The same without a root: nobody can withhold a provider's pay
    """
    self._pay_one(ack)


@external
def claim_batch(
    epoch: uint64, acks: DynArray[Ack, BATCH_MAX], indices: DynArray[uint256, BATCH_MAX],
    siblings: DynArray[bytes32, BATCH_MAX * LEVELS_MAX],
):
    """
    @notice Several claims under one proof. What is closed or not due is passed over
    """
    poster: uint256 = self._check_known_epoch(epoch)
    assert len(acks) > 0, "batch_size"
    assert len(indices) == len(acks), "bad_proof"
    width: uint256 = (poster >> 160) & COUNT_MAX
    places: uint256[BATCH_MAX] = empty(uint256[BATCH_MAX])
    nodes: bytes32[BATCH_MAX] = empty(bytes32[BATCH_MAX])
    known: uint256 = 0
    for at: uint256 in indices:
        assert at < width, "bad_proof"
        if known > 0:
            assert at > places[known - 1], "bad_proof"
        places[known] = at
        nodes[known] = self._leaf_hash(epoch, acks[known].channel, acks[known].cum, acks[known].seq, acks[known].head)
        known += 1
    used: uint256 = 0
    for level: uint256 in range(LEVELS_MAX):
        if width == 1:
            break
        above: uint256 = 0
        i: uint256 = 0
        for _: uint256 in range(BATCH_MAX):
            if i == known:
                break
            at: uint256 = places[i]
            node: bytes32 = nodes[i]
            i += 1
            if at & 1 == 1:
                # Its left neighbour would have taken it along.
                assert used < len(siblings), "bad_proof"
                node = self._node_hash(siblings[used], node)
                used += 1
            elif at != width - 1:
                if i < known and places[i] == at + 1:
                    node = self._node_hash(node, nodes[i])
                    i += 1
                else:
                    assert used < len(siblings), "bad_proof"
                    node = self._node_hash(node, siblings[used])
                    used += 1
            places[above] = at >> 1
            nodes[above] = node
            above += 1
        known = above
        width = (width + 1) >> 1
    assert used == len(siblings) and nodes[0] == self.roots[epoch], "bad_proof"
    self._pay_all(acks)


@external
def claim_direct_batch(acks: DynArray[Ack, BATCH_MAX]):
    """
    @notice Several direct claims. What is closed or not due is passed over
    """
    assert len(acks) > 0, "batch_size"
    self._pay_all(acks)


@external
def request_exit(channel_id: bytes32):
    """
    @notice The payer wants its unspent credits back; until the delay is over claims still pay
    """
    word: uint256 = self._check_payer(channel_id)
    assert word & EXITING == 0, "exit_pending"
    exit_at_ms: uint256 = self._now_ms() + EXIT_DELAY_MS
    self.session_words[channel_id] = word | EXITING
    self.payer_words[channel_id] |= exit_at_ms << 160
    log ExitRequested(channel=channel_id, exit_at_ms=exit_at_ms)


@external
def finish_exit(channel_id: bytes32):
    word: uint256 = self._check_payer(channel_id)
    assert word & EXITING != 0, "exit_not_requested"
    assert self._now_ms() >= self.payer_words[channel_id] >> 160, "exit_too_early"
    paid: uint256 = (self.provider_words[channel_id] >> 160) & AMOUNT
    refunded: uint256 = ((word >> 160) & AMOUNT) - paid
    self.session_words[channel_id] = (word - (refunded << 160)) | CLOSED
    self.balances[msg.sender] += refunded
    log ExitFinished(channel=channel_id, refunded=refunded)


# roots and what stands behind them

@external
def submit_epoch(epoch: uint64, root: bytes32, count: uint256):
    """
    @notice One root an epoch: the aggregator's, or after the grace period anyone's who has bonded as much
    """
    assert 1 <= count and count <= COUNT_MAX, "malformed_commitment"
    assert self.poster_words[epoch] == 0, "epoch_exists"
    now_ms: uint256 = self._now_ms()
    end_ms: uint256 = (convert(epoch, uint256) + 1) * EPOCH_MS
    assert now_ms >= end_ms, "epoch_not_over"
    assert msg.sender == AGGREGATOR or now_ms >= end_ms + GRACE_MS, "not_the_aggregator"
    bonded: uint256 = self.bond_words[msg.sender]
    assert bonded & UNBONDING == 0, "unbonding"
    assert (bonded >> 160) & AMOUNT >= SLASH * FAULTS_PER_BOND, "bond_too_small"
    self.roots[epoch] = root
    self.poster_words[epoch] = convert(msg.sender, uint256) | (count << 160) | (now_ms << 200)
    log EpochSubmitted(epoch=epoch, poster=msg.sender, root=root, count=count)


@external
def bond(amount: uint256, signer: address):
    """
    @notice Credits go behind the sender's roots; `signer` signs its promises, and stays while the bond does
    """
    assert signer != empty(address), "malformed_address"
    assert 0 < amount and amount <= SUPPLY_MAX, "amount_out_of_range"
    word: uint256 = self.bond_words[msg.sender]
    if word != 0:
        assert word & UNBONDING == 0, "unbonding"
        assert self._account(word) == signer, "signer_fixed"
    self._spend(msg.sender, amount)
    self.bond_words[msg.sender] = (word | convert(signer, uint256)) + (amount << 160)
    log Bonded(account=msg.sender, amount=amount, signer=signer)


@external
def request_unbond():
    word: uint256 = self.bond_words[msg.sender]
    assert word != 0, "not_bonded"
    assert word & UNBONDING == 0, "unbonding"
    unbond_at_ms: uint256 = self._now_ms() + EXIT_DELAY_MS
    self.bond_words[msg.sender] = word | UNBONDING
    self.unbond_at_ms[msg.sender] = unbond_at_ms
    log UnbondRequested(account=msg.sender, unbond_at_ms=unbond_at_ms)


@external
def finish_unbond():
    word: uint256 = self.bond_words[msg.sender]
    assert word != 0, "not_bonded"
    assert word & UNBONDING != 0, "unbond_not_requested"
    assert self._now_ms() >= self.unbond_at_ms[msg.sender], "unbond_too_early"
    assert (word >> 224) & COUNT_BITS == 0, "challenge_open"
    amount: uint256 = (word >> 160) & AMOUNT
    self.bond_words[msg.sender] = 0
    self.unbond_at_ms[msg.sender] = 0
    self.balances[msg.sender] += amount
    log Unbonded(account=msg.sender, amount=amount)


# disputes

@external
def challenge_omission(epoch: uint64, channel_id: bytes32, cum: uint64, seq: uint64, head: bytes32, signature: Signature):
    """
    @notice Accuse: this promise of the root's poster was not kept
    """
    poster: address = self._check_challengeable(epoch)
    digest: bytes32 = sha256(
        concat(PROMISE_DOMAIN, channel_id, self._numbers(cum, seq), head, convert(epoch, bytes8))
    )
    signer: address = self._check_bonded(poster)
    assert self._recover(digest, signature) == signer, "bad_signature"
    self._accuse(OMISSION, epoch, self._omission_subject(channel_id, seq), poster)


@external
def answer_omission(promised_seq: uint64, leaf: Leaf, index: uint256, siblings: DynArray[bytes32, LEVELS_MAX]):
    """
    @notice Show the leaf: of the same epoch and channel, as new as promised. Anyone may answer, and earns the stake
    """
    subject: bytes32 = self._omission_subject(leaf.channel, promised_seq)
    key: bytes32 = self._check_answerable(OMISSION, leaf.epoch, subject)
    assert leaf.seq >= promised_seq, "leaf_too_old"
    self._check_proof(leaf, index, siblings)
    self._acquit(OMISSION, leaf.epoch, subject, key)


@external
def challenge_leaf(leaf: Leaf, index: uint256, siblings: DynArray[bytes32, LEVELS_MAX]):
    """
    @notice Accuse: nobody acknowledged this leaf of the root
    """
    poster: address = self._check_challengeable(leaf.epoch)
    self._check_bonded(poster)
    self._check_proof(leaf, index, siblings)
    self._accuse(LEAF, leaf.epoch, self._leaf_hash(leaf.epoch, leaf.channel, leaf.cum, leaf.seq, leaf.head), poster)


@external
def answer_leaf(leaf: Leaf, signature: Signature):
    """
    @notice Show that its payer did, with the present key or the one before
    """
    subject: bytes32 = self._leaf_hash(leaf.epoch, leaf.channel, leaf.cum, leaf.seq, leaf.head)
    key: bytes32 = self._check_answerable(LEAF, leaf.epoch, subject)
    word: uint256 = self.session_words[leaf.channel]
    assert word != 0, "unknown_channel"
    signer: address = self._recover(self._ack_digest(leaf.channel, leaf.cum, leaf.seq, leaf.head), signature)
    assert signer == self._account(word) or (
        word & ROTATED != 0 and signer == self._account(self.next_words[leaf.channel])
    ), "bad_signature"
    self._acquit(LEAF, leaf.epoch, subject, key)


@external
def prove_bad_head(epoch: uint64, root: bytes32, count: uint64, signature: Signature):
    """
    @notice The poster signed another commitment for this epoch than it posted: slashed at once
    """
    poster: address = self._check_challengeable(epoch)
    signer: address = self._check_bonded(poster)
    digest: bytes32 = sha256(
        concat(COMMITMENT_DOMAIN, convert(epoch, bytes8), root, convert(count, bytes8))
    )
    assert self._recover(digest, signature) == signer, "bad_signature"
    posted: uint256 = (self.poster_words[epoch] >> 160) & COUNT_MAX
    assert root != self.roots[epoch] or convert(count, uint256) != posted, "head_matches"
    key: bytes32 = self._challenge_key(HEAD, epoch, empty(bytes32))
    assert self.challenge_words[key] == 0, "challenge_exists"
    self.challenge_words[key] = convert(msg.sender, uint256) | (self._now_ms() << 160) | (SLASHED << 208)
    self._slash(HEAD, epoch, empty(bytes32), poster, msg.sender, 0)


@external
def finalize(fault: uint256, epoch: uint64, subject: bytes32):
    """
    @notice Slash for a challenge that nobody answered in time; its stake returns
    """
    key: bytes32 = self._challenge_key(fault, epoch, subject)
    word: uint256 = self._check_undecided(key)
    assert self._now_ms() >= (word >> 160) & TIME, "answer_pending"
    self.challenge_words[key] = (word & (2**208 - 1)) | (SLASHED << 208)
    challenger: address = self._account(word)
    self.balances[challenger] += SLASH // STAKES_PER_SLASH
    self._slash(fault, epoch, subject, self._account(self.poster_words[epoch]), challenger, COUNT_ONE)


# what the above share

@internal
@view
def _now_ms() -> uint256:
    return block.timestamp * 1000


@internal
@pure
def _account(word: uint256) -> address:
    return convert(word & ADDRESS, address)


@internal
def _spend(account: address, amount: uint256):
    assert 0 < amount and amount <= SUPPLY_MAX, "amount_out_of_range"
    free: uint256 = self.balances[account]
    assert free >= amount, "insufficient_balance"
    self.balances[account] = free - amount


@internal
@view
def _check_payer(channel_id: bytes32) -> uint256:
    word: uint256 = self.session_words[channel_id]
    assert word != 0, "unknown_channel"
    assert word & CLOSED == 0, "channel_closed"
    assert msg.sender == self._account(self.payer_words[channel_id]), "not_the_payer"
    return word


@internal
@pure
def _numbers(cum: uint64, seq: uint64) -> bytes24:
    """
    @dev cum16 | seq8
    """
    return convert(convert((convert(cum, uint256) << 64) | convert(seq, uint256), uint192), bytes24)


@internal
@view
def _ack_digest(channel_id: bytes32, cum: uint64, seq: uint64, head: bytes32) -> bytes32:
    return sha256(concat(ACK_DOMAIN, channel_id, self._numbers(cum, seq), head))


@internal
@pure
def _recover(digest: bytes32, signature: Signature) -> address:
    """
    @dev Reverts for the malleable twin of a signature, and for one that recovers to nobody
    """
    assert convert(signature.s, uint256) <= HALF_ORDER and signature.v <= 1, "bad_signature"
    signer: address = ecrecover(digest, signature.v + 27, signature.r, signature.s)
    assert signer != empty(address), "bad_signature"
    return signer


@internal
@pure
def _leaf_hash(epoch: uint64, channel_id: bytes32, cum: uint64, seq: uint64, head: bytes32) -> bytes32:
    """
    @dev 0x00 | epoch8 | channel32 | cum16 | seq8 | head32
    """
    start: bytes9 = convert(convert(epoch, uint72), bytes9)
    return sha256(concat(start, channel_id, self._numbers(cum, seq), head))


@internal
@pure
def _node_hash(left: bytes32, right: bytes32) -> bytes32:
    return sha256(concat(b"\x01", left, right))


@internal
@view
def _check_known_epoch(epoch: uint64) -> uint256:
    word: uint256 = self.poster_words[epoch]
    assert word != 0, "unknown_epoch"
    return word


@internal
@view
def _check_proof(leaf: Leaf, index: uint256, siblings: DynArray[bytes32, LEVELS_MAX]):
    """
    @dev RFC 9162, 2.1.3.2: the shape follows from the count, so every sibling has one place and none is left over
    """
    word: uint256 = self._check_known_epoch(leaf.epoch)
    last: uint256 = ((word >> 160) & COUNT_MAX) - 1
    at: uint256 = index
    assert at <= last, "bad_proof"
    node: bytes32 = self._leaf_hash(leaf.epoch, leaf.channel, leaf.cum, leaf.seq, leaf.head)
    for sibling: bytes32 in siblings:
        assert last != 0, "bad_proof"
        if at & 1 == 1:
            node = sha256(concat(b"\x01", sibling, node))
        elif at == last:
            node = sha256(concat(b"\x01", sibling, node))
            # The last node of an odd level moved up without a sibling.
            for _: uint256 in range(LEVELS_MAX):
                if at & 1 == 1 or at == 0:
                    break
                at >>= 1
                last >>= 1
        else:
            node = sha256(concat(b"\x01", node, sibling))
        at >>= 1
        last >>= 1
    assert last == 0 and node == self.roots[leaf.epoch], "bad_proof"


@internal
@view
def _check_signed(ack: Ack, word: uint256):
    session: uint256 = word
    if word & ROTATED != 0:
        following: uint256 = self.next_words[ack.channel]
        if self._now_ms() >= following >> 160:
            session = following
    signer: address = self._recover(self._ack_digest(ack.channel, ack.cum, ack.seq, ack.head), ack.signature)
    assert signer == self._account(session), "bad_signature"


@internal
def _pay(ack: Ack, word: uint256) -> uint256:
    """
    @dev min(cum, locked) - paid, never below zero; a closed channel has all it locked paid out
    """
    provider: uint256 = self.provider_words[ack.channel]
    paid: uint256 = (provider >> 160) & AMOUNT
    cum: uint256 = min(convert(ack.cum, uint256), (word >> 160) & AMOUNT)
    if cum <= paid:
        return 0
    due: uint256 = cum - paid
    self.provider_words[ack.channel] = provider + (due << 160)
    self.balances[self._account(provider)] += due
    log Paid(channel=ack.channel, provider=self._account(provider), amount=due)
    return due


@internal
def _pay_one(ack: Ack):
    word: uint256 = self.session_words[ack.channel]
    assert word != 0, "unknown_channel"
    assert word & CLOSED == 0, "channel_closed"
    self._check_signed(ack, word)
    assert self._pay(ack, word) > 0, "nothing_due"


@internal
def _pay_all(acks: DynArray[Ack, BATCH_MAX]):
    total: uint256 = 0
    for ack: Ack in acks:
        word: uint256 = self.session_words[ack.channel]
        assert word != 0, "unknown_channel"
        self._check_signed(ack, word)
        total += self._pay(ack, word)
    assert total > 0, "nothing_due"


@internal
@pure
def _omission_subject(channel_id: bytes32, promised_seq: uint64) -> bytes32:
    return sha256(concat(channel_id, convert(promised_seq, bytes8)))


@internal
@pure
def _challenge_key(fault: uint256, epoch: uint64, subject: bytes32) -> bytes32:
    return keccak256(abi_encode(fault, epoch, subject))


@internal
@view
def _check_challengeable(epoch: uint64) -> address:
    word: uint256 = self._check_known_epoch(epoch)
    assert self._now_ms() < (word >> 200) + WINDOW_MS, "window_closed"
    return self._account(word)


@internal
@view
def _check_bonded(poster: address) -> address:
    """
    @dev The signer it promised with
    """
    word: uint256 = self.bond_words[poster]
    assert word != 0, "not_bonded"
    return self._account(word)


@internal
@view
def _check_undecided(key: bytes32) -> uint256:
    word: uint256 = self.challenge_words[key]
    assert word != 0, "unknown_challenge"
    assert word >> 208 == OPEN, "challenge_decided"
    return word


@internal
@view
def _check_answerable(fault: uint256, epoch: uint64, subject: bytes32) -> bytes32:
    key: bytes32 = self._challenge_key(fault, epoch, subject)
    assert self._now_ms() < (self._check_undecided(key) >> 160) & TIME, "answer_too_late"
    return key


@internal
def _accuse(fault: uint256, epoch: uint64, subject: bytes32, poster: address):
    key: bytes32 = self._challenge_key(fault, epoch, subject)
    assert self.challenge_words[key] == 0, "challenge_exists"
    free: uint256 = self.balances[msg.sender]
    assert free >= SLASH // STAKES_PER_SLASH, "insufficient_balance"
    self.balances[msg.sender] = free - SLASH // STAKES_PER_SLASH
    self.bond_words[poster] += COUNT_ONE
    respond_by_ms: uint256 = self._now_ms() + RESPOND_MS
    self.challenge_words[key] = convert(msg.sender, uint256) | (respond_by_ms << 160) | (OPEN << 208)
    log Challenged(
        fault=fault, epoch=epoch, subject=subject, challenger=msg.sender, respond_by_ms=respond_by_ms
    )


@internal
def _acquit(fault: uint256, epoch: uint64, subject: bytes32, key: bytes32):
    self.challenge_words[key] = (self.challenge_words[key] & (2**208 - 1)) | (ANSWERED << 208)
    self.bond_words[self._account(self.poster_words[epoch])] -= COUNT_ONE
    self.balances[msg.sender] += SLASH // STAKES_PER_SLASH
    log Answered(fault=fault, epoch=epoch, subject=subject, answerer=msg.sender)


@internal
def _slash(fault: uint256, epoch: uint64, subject: bytes32, poster: address, accuser: address, decided: uint256):
    """
    @dev Half is burnt, or accusing oneself would pay. `decided` is COUNT_ONE for a challenge that was open
    """
    word: uint256 = self.bond_words[poster]
    amount: uint256 = min(SLASH, (word >> 160) & AMOUNT)
    reward: uint256 = amount // 2
    self.bond_words[poster] = word - (amount << 160) - decided
    self.balances[accuser] += reward
    self.burnt += amount - reward
    log Slashed(fault=fault, epoch=epoch, subject=subject, poster=poster, amount=amount, reward=reward)
