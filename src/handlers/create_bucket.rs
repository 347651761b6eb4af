//! CreateBucket: a row in the database, and an answer only after every core of this process knows of it.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::trouble::Trouble;
use crate::base::BucketName;
use crate::proto::body_check::BodyCheck;
use crate::proto::checksum::Declared;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::xml;
use crate::store::port::{CreateBucket, Metadata};

/// Buckets of one user (AWS's quota for an account).
const BUCKETS_MAX: u32 = 10_000;
/// A region and what else AWS knows fit many times.
const BODY_BYTES_MAX: usize = 64 * 1024;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<(), Trouble> {
    let user = &*request.principal.user;
    let known = request.registry.bucket(request.bucket());
    let own = known.is_some_and(|known| request.principal.held_in(request.bucket(), known.holder()).is_some());
    if !request.principal.may_create_buckets() {
        // Who may use a bucket may hear that it is there: clients make sure of it before they upload (rclone), and go on.
        if own {
            return Err(ErrorCode::BucketAlreadyOwnedByYou.into());
        }
        ports.cells().access_denied.inc();
        return Err(ErrorCode::AccessDenied.into());
    }
    let name = BucketName::parse_new(request.bucket()).ok_or(ErrorCode::InvalidBucketName)?;
    if known.is_some_and(|known| known.stored.is_none()) {
        return Err(taken(own).into());
    }
    let region = receive_region(ports, request, exchange).await?;
    let create = CreateBucket { bucket: name.clone(), owner: user.to_owned(), region, buckets_max: BUCKETS_MAX };
    let created = ports.meta().step(create).await??;
    ports.buckets_known(created.generation).await?;
    if !created.new {
        return Err(taken(created.row.owner == user).into());
    }
    exchange.head().format("location", format_args!("/{}", name.as_str()));
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}

fn taken(own: bool) -> ErrorCode {
    if own { ErrorCode::BucketAlreadyOwnedByYou } else { ErrorCode::BucketAlreadyExists }
}

/// The region that the body asks for; empty: none.
async fn receive_region<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<String, Trouble> {
    let declared = Declared::parse(&request.head.headers, request.payload)?;
    exchange.receive(BODY_BYTES_MAX, &mut BodyCheck::of_declared(declared)).await?;
    let region = xml::read_create_bucket(exchange.received())?;
    allow_region(&region, ports.view().server.region.as_deref())?;
    Ok(region)
}

/// Where any region may be signed for, any may be asked for.
fn allow_region(asked: &str, configured: Option<&str>) -> Result<(), S3Error> {
    let plausible = asked == "EU"
        || asked.len() <= 64 && asked.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !plausible {
        return Err(ErrorCode::InvalidLocationConstraint.into());
    }
    match configured {
        Some(region) if !asked.is_empty() && asked != region => {
            let text = format!(
                "The {asked} location constraint is incompatible for the region specific endpoint this request was sent to."
            );
            Err(S3Error::new(ErrorCode::IllegalLocationConstraintException, text))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions() {
        use ErrorCode::{IllegalLocationConstraintException as Illegal, InvalidLocationConstraint as Invalid};
        for (asked, configured, want) in [
            ("", None, Ok(())),
            ("eu-central-1", None, Ok(())),
            ("EU", None, Ok(())),
            ("", Some("eu-central-1"), Ok(())),
            ("eu-central-1", Some("eu-central-1"), Ok(())),
            ("us-west-2", Some("eu-central-1"), Err(Illegal)),
            ("Eu central", None, Err(Invalid)),
            ("<", Some("eu-central-1"), Err(Invalid)),
        ] {
            assert_eq!(allow_region(asked, configured).map_err(|error| error.code), want, "{asked} {configured:?}");
        }
    }
}
