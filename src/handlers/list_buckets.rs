//! ListBuckets: the buckets that the caller's grants let it see.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::base::Timestamp;
use crate::config::registry::Bucket;
use crate::proto::error_code::ErrorCode;
use crate::proto::owner::Owner;
use crate::proto::params::ListBuckets;
use crate::proto::xml::{self, BucketsPage};

/// The configuration knows no time of its buckets' making. 2006-03-14, the day S3 opened, is a date that every client takes
/// and that never changes between two answers.
const CREATED: Timestamp = Timestamp { millis: 1_142_294_400_000 };

pub async fn handle<P: Ports, X: Exchange<P>>(
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    if !request.registry.is_complete() {
        return Err(ErrorCode::ServiceUnavailable.into());
    }
    let query = request.query();
    let asked = ListBuckets::parse(&query)?;
    let of_page = |name: &str| {
        name > asked.after.as_str() && asked.prefix.as_deref().is_none_or(|prefix| name.starts_with(prefix))
    };
    let mut seen = request.registry.seen_by(request.principal);
    seen.retain(|bucket| of_page(bucket.name.as_str()));
    let more = seen.len() > asked.max as usize;
    seen.truncate(asked.max as usize);
    let page = BucketsPage {
        owner: &Owner::of(&request.principal.user),
        prefix: asked.prefix.as_deref(),
        continues_after: seen.last().filter(|_| more).map(|bucket| bucket.name.as_str()),
    };
    let created = |bucket: &Bucket| bucket.stored.as_ref().map_or(CREATED, |stored| stored.created);
    scratch.body.clear();
    let entries = seen.iter().map(|bucket| (bucket.name.as_str(), created(bucket)));
    xml::write_list_buckets(&mut scratch.body, &page, entries);
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}
