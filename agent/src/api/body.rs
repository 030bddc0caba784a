//! Reads bodies of limited size, within ten seconds.

use std::error::Error;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::answer::Refused;

/// How long a client may take to send a body.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The whole body, of at most `most` bytes.
pub(super) async fn whole(body: Body, most: usize) -> Result<Bytes, Refused> {
    let read = Limited::new(body, most).collect();
    let read = tokio::time::timeout(TIMEOUT, read).await.map_err(|_| Refused::too_slow(TIMEOUT))?;
    Ok(read.map_err(|err| refused(&*err, most))?.to_bytes())
}

/// Passes the pieces of a body on as they come, at most `most` bytes of them, and keeps none.
pub(super) async fn pieces(body: Body, most: usize, mut each: impl FnMut(&[u8])) -> Result<(), Refused> {
    let mut body = Limited::new(body, most);
    let read = async {
        while let Some(frame) = body.frame().await {
            frame.map_err(|err| refused(&*err, most))?.data_ref().into_iter().for_each(|piece| each(piece));
        }
        Ok(())
    };
    tokio::time::timeout(TIMEOUT, read).await.unwrap_or_else(|_| Err(Refused::too_slow(TIMEOUT)))
}

fn refused(err: &(dyn Error + Send + Sync + 'static), most: usize) -> Refused {
    if err.is::<LengthLimitError>() { Refused::too_large(most) } else { Refused::malformed(format!("the body cannot be read: {err}")) }
}
