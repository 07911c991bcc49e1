//! Two statements of one transaction, the second sent without waiting for the answer of the first.

use std::future::Future;

use crate::error::Result;

/// Where the first fails, the second one hears only that the transaction is over (25P02), and both
/// may be heard of at the same time. So both are waited for, and the first one's error counts.
pub async fn in_order<A, B>(
    first: impl Future<Output = Result<A>>,
    second: impl Future<Output = Result<B>>,
) -> Result<(A, B)> {
    let (first, second) = tokio::join!(biased; first, second);
    Ok((first?, second?))
}
