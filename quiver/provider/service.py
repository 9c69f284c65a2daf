"""A provider's protocols: offers and load, inference, acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from quiver.ids import Address, ChannelId, ModelId
from quiver.ports import InferenceBackend, Stream
from quiver.provider.admission import SlotAdmission
from quiver.provider.channel import ProviderChannel
from quiver.provider.connection import PayerConnection
from quiver.provider.models import ServedModel
from quiver.provider.offers import OfferDesk
from quiver.provider.payers import Payers
from quiver.provider.slots import SlotQueue
from quiver.runtime import Runtime
from quiver.wire.protocols import ACKS, INFERENCE, OFFER


class ProviderService:
    """Serves `/quiver/offer`, `/quiver/inference` and `/quiver/acks`. Call `start` once, then `run` beside it."""

    def __init__(
        self,
        runtime: Runtime,
        backend: InferenceBackend,
        models: Sequence[ServedModel],
        *,
        slots: int,
        queue_max: int = 16,
        hardware: str = "",
        region: str = "",
        payout: Address | None = None,
    ) -> None:
        """`payout` is the account channels pay; None: the node's own. Its key needs not be on this machine."""
        self.runtime = runtime
        self.backend = backend
        self.models: dict[ModelId, ServedModel] = {served.installed.model: served for served in models}
        self.admission = SlotAdmission(slots=slots, queue_max=queue_max)
        self.desk = OfferDesk(runtime, self.models, self.admission, hardware=hardware, region=region, payout=payout)
        self._payers = Payers(runtime, payout=payout)

    @property
    def channels(self) -> dict[ChannelId, ProviderChannel]:
        """Every channel used in this life of the node; the settler hands in and claims what they owe."""
        return self._payers.channels

    async def start(self) -> None:
        """Sign the offers, then serve."""
        await self.desk.start()
        self._slots = SlotQueue(self.admission, asyncio.get_running_loop())
        transport = self.runtime.transport
        transport.answer(OFFER, self.desk.answer)
        transport.serve(INFERENCE, self._serve_inference)
        transport.serve(ACKS, self._payers.serve_acks)

    async def run(self) -> None:
        """Renew the offers."""
        await self.desk.run()

    async def _serve_inference(self, stream: Stream) -> None:
        connection = PayerConnection(
            stream, runtime=self.runtime, backend=self.backend, models=self.models, admission=self.admission,
            slots=self._slots, payers=self._payers,
        )  # fmt: skip
        await connection.run()
