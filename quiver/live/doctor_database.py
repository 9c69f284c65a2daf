"""What `doctor` says about a store on a PostgreSQL server. It changes nothing, and takes no lock that a running node needs."""

from __future__ import annotations

from contextlib import closing

from quiver.errors import QuiverError, UsageError
from quiver.ids import PeerId
from quiver.live.finding import Finding, fail, ok
from quiver.live.stores.choice import check_driver
from quiver.live.stores.version import check_version


def read_row(url: str, peer_id: PeerId, table: str, key: bytes) -> bytes | None:
    """One row of a node's store, whether it runs or not; None where it is not there. `UsageError` if the server can't be asked."""
    check_driver()
    import psycopg
    from psycopg import sql

    from quiver.live.stores.postgres import read_version
    from quiver.live.stores.postgres_url import Server, schema_of

    server, schema = Server(url), schema_of(peer_id)
    try:
        with closing(server.connect()) as connection:
            if read_version(connection, schema) is None:
                return None
            query = sql.SQL("SELECT value FROM {} WHERE tab = %s AND key = %s").format(sql.Identifier(schema, "rows"))
            row = connection.execute(query, (table, key)).fetchone()
    except psycopg.Error as error:
        raise UsageError(f"{server}: {server.clean(error)}") from error
    return None if row is None else bytes(row[0])


def check_database(url: str, peer_id: PeerId) -> Finding:
    """Can the node open its store there, and does the server wait for its disk?"""
    try:
        check_driver()
    except QuiverError as error:
        return fail("store", error)
    import psycopg

    from quiver.live.stores.postgres import check_durable, read_version
    from quiver.live.stores.postgres_url import Server, schema_of

    try:
        server = Server(url)
    except QuiverError as error:
        return fail("store", error)
    schema = schema_of(peer_id)
    try:
        with closing(server.connect()) as connection:
            check_durable(connection, server.name)
            found = read_version(connection, schema)
            check_version(found or 0, server.name)
            may = "SELECT to_regnamespace(%s) IS NOT NULL OR has_database_privilege(current_database(), 'CREATE')"
            if connection.execute(may, (schema,)).fetchone() == (False,):
                return fail("store", f"{server} lets this user make no schema", "GRANT CREATE ON DATABASE ... TO ...")
            release = connection.info.parameter_status("server_version")
    except psycopg.Error as error:
        return fail("store", f"{server}: {server.clean(error)}", "start the server, or correct its URL")
    except QuiverError as error:
        return fail("store", error)
    state = "nothing in it yet" if found is None else f"store version {found}"
    return ok("store", f"{server}, PostgreSQL {release}, schema {schema}, {state}")
