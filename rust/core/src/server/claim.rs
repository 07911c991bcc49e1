//! Ends what an earlier driver of the same migration has left on a server.
//!
//! A driver that freezes or loses its network in the middle of a chunk leaves its transaction open.
//! On the target, the rows of that transaction block those of the next driver; on the source, its
//! reading statement prevents the guard from being dropped. The owner has changed, so the old driver
//! can commit nothing: the next one ends its sessions and does not wait for them. It finds them by an
//! advisory lock that the sessions of a migration share. Each side has a lock of its own: where two
//! sides are one database, neither may end the other's live sessions.

use uuid::Uuid;

use crate::error::{Result, Side};
use crate::server::connect::Connection;

/// The statement that marks a session, so that `end_others` finds it.
pub fn mark(migration_id: Uuid, side: Side) -> String {
    let key = key(migration_id, side);
    format!("select pg_catalog.pg_advisory_lock_shared({key})")
}

/// Ends the other marked sessions. Only the recorded owner may call this.
pub async fn end_others(connection: &Connection, migration_id: Uuid) -> Result<()> {
    let key = key(migration_id, connection.side());
    // Only sessions of this role: others are not the migration's, even if we may signal them. The
    // function and not the view, whose joins take longer to plan than all of this to run.
    let sql = format!(
        "select pg_catalog.pg_terminate_backend(lock.pid, 5000) \
         from pg_catalog.pg_locks as lock, pg_catalog.pg_stat_get_activity(lock.pid) as session \
         where lock.locktype = 'advisory' and lock.objsubid = 1 \
           and lock.classid::bigint = {} and lock.objid::bigint = {} \
           and lock.pid <> pg_catalog.pg_backend_pid() \
           and session.datid = (select oid from pg_catalog.pg_database \
                                where datname = pg_catalog.current_database()) \
           and session.usesysid = (select oid from pg_catalog.pg_roles \
                                   where rolname = current_user)",
        key >> 32,
        key & 0xffff_ffff
    );
    connection.batch(&sql).await
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
