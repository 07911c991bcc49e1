//! Ends what an earlier driver of the same migration has left on a server.
//!
//! A driver that freezes or loses its network in the middle of a chunk leaves its transaction open.
//! On the target, the rows of that transaction block those of the next driver; on the source, its
//! reading statement prevents the guard from being dropped. The owner has changed, so the old driver
//! can commit nothing: the next one ends its sessions and does not wait for them. It finds them by an
//! advisory lock that the sessions of a migration share. Each side has a lock of its own: where two
//! sides are one database, neither may end the other's live sessions.

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::error::{On, Result, Side};
use crate::server::connect::Connection;

/// Marks the session, so that `end_others` finds it.
pub async fn mark(connection: &Connection, migration_id: Uuid) -> Result<()> {
    let sql = "select pg_catalog.pg_advisory_lock_shared($1)";
    connection
        .client()
        .execute(sql, &[&key(migration_id, connection.side())])
        .await
        .map(drop)
        .on(connection.side())
}

/// Ends the other marked sessions. Only the recorded owner may call this.
pub async fn end_others(connection: &Connection, migration_id: Uuid) -> Result<()> {
    // Only sessions of this role: others are not the migration's, even if we may signal them.
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
