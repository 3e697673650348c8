"""Tokens of the HTTP API on MongoDB."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from execution_service.storage.mongo.documents import token_from_document, token_to_document
from execution_service.storage.mongo.names import API_TOKENS
from execution_service.storage.mongo.port import MongoPort
from execution_service.storage.ports.tokens import KeptToken


class MongoTokens(MongoPort):
    """The tokens."""

    async def tokens(self) -> list[KeptToken]:
        def read() -> list[KeptToken]:
            return self._readable(API_TOKENS, self._db[API_TOKENS].find(), token_from_document)

        return sorted(await self._calls.look(read), key=lambda t: (t.created_at, t.token_id))

    async def insert_token(self, token: KeptToken) -> bool:
        document = token_to_document(token)
        return await self._calls.look(partial(self._insert_new, API_TOKENS, [document])) == 1

    async def revoke_token(self, token_id: str, at: datetime) -> bool:
        def write() -> bool:
            tokens = self._db[API_TOKENS]
            tokens.update_one({"_id": token_id, "revoked_at": None}, {"$set": {"revoked_at": at}})
            return tokens.find_one({"_id": token_id}, {"_id": 1}) is not None

        return await self._calls.look(write)
