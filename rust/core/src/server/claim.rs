//! Ends what an earlier driver of the same migration has left on a server.
//!
//! A driver that is frozen or cut off in the middle of a chunk keeps its transaction open, and the
//! rows it has written there keep the next driver's from being written; at the source the statement
//! that it reads with keeps the guard from being dropped. It can commit nothing any more, since the
//! owner has changed, so its sessions are ended rather than waited for. They are recognised by a lock
//! that the sessions of a migration share, one for each side: where two sides are one database,
//! neither may end the other's live session.

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::error::{On, Result, Side};
use crate::server::connect::Connection;

/// Leaves a mark on the session that `end_others` finds.
pub async fn mark(connection: &Connection, migration_id: Uuid) -> Result<()> {
    let sql = "select pg_catalog.pg_advisory_lock_shared($1)";
    connection
        .client()
        .execute(sql, &[&key(migration_id, connection.side())])
        .await
        .map(drop)
        .on(connection.side())
}

/// Ends the other sessions that bear the mark. Only for a driver that is the recorded owner.
pub async fn end_others(connection: &Connection, migration_id: Uuid) -> Result<()> {
    // Somebody else's sessions are out of reach unless the role may signal them, and not ours.
    let sql = "\
        select pg_catalog.pg_terminate_backend(lock.pid, 5000) \
        from pg_catalog.pg_locks as lock \
             join pg_catalog.pg_stat_activity as session on session.pid = lock.pid \
        where lock.locktype = 'advisory' and lock.objsubid = 1 \
          and lock.classid::bigint = $1 and lock.objid::bigint = $2 \
          and lock.pid <> pg_catalog.pg_backend_pid() \
          and session.datname = pg_catalog.current_database() \
          and session.usename = current_user";
    let key = key(migration_id, connection.side());
    let parameters: [&(dyn ToSql + Sync); 2] = [&(key >> 32), &(key & 0xffff_ffff)];
    connection
        .client()
        .execute(sql, &parameters)
        .await
        .map(drop)
        .on(connection.side())
}

/// The server splits it into two unsigned halves, so it is kept positive.
fn key(migration_id: Uuid, side: Side) -> i64 {
    let (high, low) = migration_id.as_u64_pair();
    let side = match side {
        Side::Target => 0,
        Side::Control => 1,
        Side::Source => 2,
    };
    (((high ^ low) >> 1) as i64 & !3) | side
}
