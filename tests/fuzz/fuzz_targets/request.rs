//! The body of a request: what is understood says the same when it is written and read again.
#![no_main]

use agent_model::request::Request;
use agent_wire::form::{Envelope, Form};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(form) = serde_json::from_str::<Form>(text) else { return };
    let again: Form = serde_json::from_str(&serde_json::to_string(&form).unwrap()).unwrap();
    assert_eq!(form, again);
    if let Ok(envelope) = Envelope::of(&form) {
        for now in [0, 1_795_213_000, u64::MAX] {
            let _ = envelope.check(&"web1.test".parse().unwrap(), now, 5);
        }
    }
    if let Ok(Some(path)) = form.reads() {
        assert!(path.starts_with("/v1/") && path.is_ascii());
    }
    if let Ok(request) = Request::try_from(&form) {
        assert_eq!(Ok(request), Request::try_from(&again));
    }
});
