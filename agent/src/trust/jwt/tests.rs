use super::super::pretend::{Pretend, base64url};
use super::*;

const ALL: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
const HEADER: &str = r#"{"typ":"JWT","alg":"EdDSA","kid":"a","x5t":"a thumbprint says nothing"}"#;

fn verified(token: &str, keys: &Keys) -> Result<Claims, BadToken> {
    Jwt::parse(token)?.verify(&ALL, keys)
}

#[test]
fn every_algorithm_verifies_with_its_own_key_and_no_other() {
    let issuers = [Pretend::rsa(), Pretend::p256(), Pretend::ed25519()];
    for issuer in &issuers {
        let token = issuer.token(&serde_json::json!({"iss": "x"}));
        assert_eq!(verified(&token, &issuer.keys("a")).unwrap().text("iss"), Ok("x"));
        assert_eq!(verified(&token, &issuer.keys("b")), Err(BadToken::UnknownKey("a".into())));
        let narrow: Vec<Algorithm> = ALL.into_iter().filter(|allowed| Algorithm::of(issuer.algorithm()) != Some(*allowed)).collect();
        let refused = Jwt::parse(&token).unwrap().verify(&narrow, &issuer.keys("a"));
        assert_eq!(refused, Err(BadToken::Algorithm(issuer.algorithm().into())));
        for other in issuers.iter().filter(|other| other.algorithm() != issuer.algorithm()) {
            assert_eq!(verified(&token, &other.keys("a")), Err(BadToken::OtherUse("a".into())));
        }
    }
    let same_kind = Pretend::ed25519();
    assert_eq!(verified(&same_kind.token(&serde_json::json!({})), &issuers[2].keys("a")), Err(BadToken::Signature("a".into())));
}

#[test]
fn what_a_header_may_not_say() {
    let issuer = Pretend::ed25519();
    let keys = issuer.keys("a");
    let with = |header: &str| verified(&issuer.sign(header, "{}"), &keys);
    assert!(with(HEADER).is_ok());
    assert!(with(&HEADER.replace(r#""typ":"JWT","#, "")).is_ok());
    for member in FORBIDDEN {
        for value in ["[]", "\"x\"", "null", "{}"] {
            let header = HEADER.replace("\"typ\"", &format!("{member:?}:{value},\"typ\""));
            assert_eq!(with(&header), Err(BadToken::Forbidden(member)), "{header}");
        }
    }
    for (from, to, error) in [
        ("\"EdDSA\"", "\"none\"", BadToken::Algorithm("none".into())),
        ("\"EdDSA\"", "\"HS256\"", BadToken::Algorithm("HS256".into())),
        ("\"EdDSA\"", "\"eddsa\"", BadToken::Algorithm("eddsa".into())),
        ("\"EdDSA\"", "\"RS256\"", BadToken::OtherUse("a".into())),
        ("\"EdDSA\"", "[\"EdDSA\"]", BadToken::Header("alg")),
        ("\"alg\":\"EdDSA\",", "", BadToken::Header("alg")),
        ("\"a\"", "\"\"", BadToken::Header("kid")),
        ("\"a\"", "7", BadToken::Header("kid")),
        (",\"kid\":\"a\"", "", BadToken::Header("kid")),
        ("\"JWT\"", "\"at+jwt\"", BadToken::Header("typ")),
        ("\"JWT\"", "\"\"", BadToken::Header("typ")),
        ("\"kid\"", "\"alg\":\"EdDSA\",\"kid\"", BadToken::NotAnObject("header")),
        ("\"kid\"", "\"\\u0061lg\":\"EdDSA\",\"kid\"", BadToken::NotAnObject("header")),
        ("{", "[{", BadToken::NotAnObject("header")),
        ("}", "} ,", BadToken::NotAnObject("header")),
    ] {
        let header = HEADER.replacen(from, to, 1);
        assert_eq!(with(&header), Err(error), "{header}");
    }
}

#[test]
fn a_token_has_one_form() {
    let issuer = Pretend::ed25519();
    let keys = issuer.keys("a");
    let token = issuer.sign(HEADER, "{}");
    let parts: Vec<&str> = token.split('.').collect();
    assert!(verified(&token, &keys).is_ok());
    for bad in [
        String::new(),
        "..".to_owned(),
        parts[..2].join("."),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{token}."),
        format!("{token}.{}", parts[2]),
        format!("{token}.{0}.{0}", parts[2]),
        format!("{token}=="),
        format!("{token}\n"),
        format!(" {token}"),
        token.replacen('.', "=.", 1),
        format!("{token}é"),
    ] {
        assert_eq!(verified(&bad, &keys), Err(BadToken::Shape), "{bad}");
    }
    // 64 bytes leave four bits of the last character unused: only one of its sixteen spellings is the canonical one.
    let last = token.chars().next_back().unwrap();
    let other = char::from_u32(last as u32 + 1).unwrap();
    assert_eq!(verified(&format!("{}{other}", &token[..token.len() - 1]), &keys), Err(BadToken::Shape));
    let long = issuer.sign(HEADER, &format!(r#"{{"x":"{}"}}"#, "y".repeat(MOST_BYTES)));
    assert_eq!(verified(&long, &keys), Err(BadToken::TooLong));
    for payload in ["", "[]", "null", "{}{}", "{", r#"{"iss":"a","iss":"a"}"#, "\u{feff}{}"] {
        let error = if payload.is_empty() { BadToken::Shape } else { BadToken::NotAnObject("payload") };
        assert_eq!(verified(&issuer.sign(HEADER, payload), &keys), Err(error), "{payload}");
    }
}

#[test]
fn any_change_of_a_token_is_refused_and_none_panics() {
    let issuer = Pretend::ed25519();
    let keys = issuer.keys("a");
    let token = issuer.sign(HEADER, r#"{"iss":"x","deep":[[[{"a":1}]]]}"#);
    for at in 0..token.len() {
        assert!(verified(&token[..at], &keys).is_err());
        for byte in b"A_.x" {
            let mut bytes = token.clone().into_bytes();
            if bytes[at] != *byte {
                bytes[at] = *byte;
                assert!(verified(std::str::from_utf8(&bytes).unwrap(), &keys).is_err(), "{at}");
            }
        }
    }
    let deep = format!(r#"{{"a":{}}}"#, "[".repeat(5000));
    assert!(Jwt::parse(&format!("{}.{}.AAAA", base64url(HEADER), base64url(&deep))).is_err());
}

#[test]
fn values_of_claims() {
    let claims: Claims = serde_json::from_str(
        r#"{"text":"x","empty":"","whole":7,"digits":"08","fraction":7.0,"power":1e3,"below":-1,"huge":99999999999999999999,
            "truth":true,"none":null,"list":["x"],"object":{"a":1,"a":2}}"#,
    )
    .unwrap();
    assert_eq!(claims.text("text"), Ok("x"));
    for claim in ["empty", "whole", "truth", "none", "list", "object", "absent"] {
        assert!(claims.text(claim).is_err(), "{claim}");
    }
    assert_eq!(claims.moment("whole"), Ok(7));
    for claim in ["text", "digits", "fraction", "power", "below", "huge", "truth", "none", "list", "absent"] {
        assert!(claims.moment(claim).is_err(), "{claim}");
    }
    assert_eq!((claims.number("whole"), claims.number("digits")), (Ok("7".into()), Ok("08".into())));
    for claim in ["text", "empty", "fraction", "below", "none", "list", "absent"] {
        assert!(claims.number(claim).is_err(), "{claim}");
    }
    let texts: Vec<(String, String)> = claims.texts().into_iter().collect();
    let told: Vec<String> = texts.iter().map(|(name, text)| format!("{name}={text}")).collect();
    assert_eq!(told, ["below=-1", "digits=08", "empty=", "text=x", "truth=true", "whole=7"]);
}
