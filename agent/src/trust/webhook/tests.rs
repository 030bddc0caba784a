//! Every case differs by one fault from one that is taken.

use super::*;

const NOW: u64 = 1_795_213_000;
const BODY: &[u8] = br#"{"ref":"refs/heads/main"}"#;
const TOKEN: &str = "a-token-of-some-length";

/// Headers as they came, with their names in lower case.
type Headers = Vec<(&'static str, String)>;

fn taken(source: Source, secrets: &[Secret], headers: &Headers, in_address: Option<&str>, pieces: &[&[u8]]) -> bool {
    let header = |name: &'static str| {
        let mut found = headers.iter().filter(|(known, _)| *known == name);
        let first = found.next().map(|(_, value)| value.as_str());
        first.filter(|_| found.next().is_none())
    };
    let Some(claim) = Claim::of(source, header, in_address, NOW) else { return false };
    let mut listening = claim.listen(secrets.iter());
    pieces.iter().for_each(|piece| listening.hear(piece));
    listening.proven()
}

/// The code that a sender makes, by another way than the one under test.
fn code(key: &[u8], message: &[u8]) -> Vec<u8> {
    use aws_lc_rs::hmac;
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

fn github(body: &[u8]) -> Headers {
    vec![("x-hub-signature-256", format!("sha256={}", hex::encode(code(TOKEN.as_bytes(), body))))]
}

#[test]
fn github_signs_the_body() {
    let secrets = [Source::Github.secret(TOKEN).unwrap()];
    let taken = |headers: &Headers, body: &[u8]| taken(Source::Github, &secrets, headers, None, &[body]);
    assert!(taken(&github(BODY), BODY));
    assert!(taken(&vec![("x-hub-signature-256", github(BODY)[0].1.to_uppercase().replace("SHA256", "sha256"))], BODY));
    assert!(!taken(&github(BODY), b"{}"));
    assert!(!taken(&vec![], BODY));
    let value = github(BODY)[0].1.clone();
    let digits = value.trim_start_matches("sha256=").to_owned();
    for wrong in [
        digits.clone(),
        format!("sha1={digits}"),
        format!("sha256={}", &digits[..62]),
        format!("sha256={digits}00"),
        format!("sha256={}zz", &digits[..62]),
        format!("sha256={}", "0".repeat(64)),
        "sha256=".to_owned(),
        value.replacen(|char: char| char == digits.chars().last().unwrap_or('0'), "é", 1),
    ] {
        assert!(!taken(&vec![("x-hub-signature-256", wrong.clone())], BODY), "{wrong}");
    }
    // The weaker header says nothing, whatever stands in it.
    assert!(!taken(&vec![("x-hub-signature", value.clone())], BODY));
    // Twice is once too often: which of them counts?
    assert!(!taken(&vec![("x-hub-signature-256", value.clone()), ("x-hub-signature-256", value)], BODY));
}

#[test]
fn a_body_may_come_in_pieces_and_either_secret_of_a_rotation_will_do() {
    let (old, new) = (Source::Github.secret("the-secret-of-before").unwrap(), Source::Github.secret(TOKEN).unwrap());
    let pieces: Vec<&[u8]> = BODY.chunks(3).collect();
    assert!(taken(Source::Github, &[old.clone(), new.clone()], &github(BODY), None, &pieces));
    assert!(taken(Source::Github, &[new, old.clone()], &github(BODY), None, &pieces));
    assert!(!taken(Source::Github, &[old], &github(BODY), None, &pieces));
}

#[test]
fn where_no_secret_is_set_nothing_is_proven() {
    // Not even what somebody signs with the stand-in.
    let headers = vec![("x-hub-signature-256", format!("sha256={}", hex::encode(code(&DECOY, BODY))))];
    assert!(!taken(Source::Github, &[], &headers, None, &[BODY]));
    assert!(!taken(Source::GitlabToken, &[], &vec![("x-gitlab-token", String::new())], None, &[BODY]));
    assert!(!taken(Source::DockerHub, &[], &vec![], Some(""), &[BODY]));
}

const KEY: [u8; 32] = [7; 32];

fn standard(id: &str, timestamp: &str, body: &[u8]) -> Headers {
    let message = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    let signature = format!("v1,{}", STANDARD.encode(code(&KEY, &message)));
    vec![("webhook-id", id.to_owned()), ("webhook-timestamp", timestamp.to_owned()), ("webhook-signature", signature)]
}

#[test]
fn standard_webhooks_sign_id_time_and_body() {
    let secrets = [Source::Gitlab.secret(&format!("whsec_{}\n", STANDARD.encode(KEY))).unwrap()];
    for source in [Source::Gitlab, Source::Generic] {
        let taken = |headers: &Headers| taken(source, &secrets, headers, None, &[BODY]);
        let now = NOW.to_string();
        let good = || standard("msg_1", &now, BODY);
        let with = |name: &'static str, value: &str| {
            let mut headers = good();
            headers.iter_mut().filter(|(known, _)| *known == name).for_each(|(_, old)| *old = value.to_owned());
            headers
        };
        assert!(taken(&good()));
        // Five minutes either way, and not a second more.
        for (seconds, fits) in [(-300, true), (-301, false), (300, true), (301, false)] {
            assert_eq!(taken(&standard("msg_1", &NOW.saturating_add_signed(seconds).to_string(), BODY)), fits, "{seconds}");
        }
        for timestamp in
            ["", "soon", &format!("+{NOW}"), &format!("0{NOW}"), &format!(" {NOW}"), &format!("{NOW}.0"), "99999999999999999999"]
        {
            assert!(!taken(&standard("msg_1", timestamp, BODY)), "{timestamp:?}");
        }
        assert!(!taken(&standard("msg.1", &now, BODY)), "a dot in the id");
        assert!(!taken(&standard("", &now, BODY)), "no id");
        assert!(!taken(&standard("msg_1", &now, b"{}")), "another body");
        assert!(!taken(&with("webhook-id", "msg_2")), "another id");
        assert!(!taken(&with("webhook-timestamp", &(NOW + 1).to_string())), "another time");
        let right = good()[2].1.clone();
        assert!(taken(&with("webhook-signature", &format!("v1a,x v1,AAAA {right}"))), "one of several");
        assert!(!taken(&with("webhook-signature", &right.replace("v1,", "v2,"))), "another version");
        assert!(!taken(&with("webhook-signature", &right.replace("v1,", ""))), "no version");
        assert!(!taken(&with("webhook-signature", &format!("{}{right}", "v1,AAAA ".repeat(MOST_SIGNATURES)))), "too many");
        for missing in 0..3 {
            let mut headers = good();
            headers.remove(missing);
            assert!(!taken(&headers), "without {missing}");
        }
    }
}

#[test]
fn a_token_is_the_secret_itself_and_in_its_own_place() {
    let secrets = [Source::GitlabToken.secret(TOKEN).unwrap()];
    let header = |value: &str| vec![("x-gitlab-token", value.to_owned())];
    assert!(taken(Source::GitlabToken, &secrets, &header(TOKEN), None, &[BODY]));
    assert!(!taken(Source::GitlabToken, &secrets, &header(&TOKEN[1..]), None, &[BODY]));
    assert!(!taken(Source::GitlabToken, &secrets, &header(""), None, &[BODY]));
    assert!(!taken(Source::GitlabToken, &secrets, &vec![], Some(TOKEN), &[BODY]));
    assert!(taken(Source::DockerHub, &secrets, &vec![], Some(TOKEN), &[BODY]));
    assert!(!taken(Source::DockerHub, &secrets, &vec![], Some("another-token-of-length"), &[BODY]));
    assert!(!taken(Source::DockerHub, &secrets, &header(TOKEN), None, &[BODY]));
}

#[test]
fn what_is_no_secret_is_said_without_repeating_it() {
    for (source, text, piece) in [
        (Source::Github, "", "is empty"),
        (Source::Github, " \n\t\n", "is empty"),
        (Source::Github, "hunter2hunter2!", "fewer than 16 bytes"),
        (Source::Github, "hunter2hunter2hunter2\nhunter2", "one line"),
        (Source::GitlabToken, "hunter2 hunter2 hunter2", "without spaces"),
        (Source::GitlabToken, "hunter2hunter2hünter2", "ASCII"),
        (Source::Gitlab, "hunter2hunter2hunter2", "whsec_"),
        (Source::Generic, "whsec_hunter2hunter2!", "base64"),
        (Source::Generic, "whsec_aHVudGVyMg==", "fewer than 16 bytes"),
        (Source::Generic, "whsec_", "fewer than 16 bytes"),
        (Source::DockerHub, "hunter2/hunter2/hunter2", "part of an address"),
        (Source::DockerHub, "hunter2%2Fhunter2hunter2", "part of an address"),
    ] {
        let says = source.secret(text).unwrap_err();
        assert!(says.contains(piece) && !says.contains("hunter2"), "{text:?}: {says}");
    }
    for source in Source::ALL {
        assert_eq!(Source::of(source.word()), Some(source));
    }
    assert_eq!(Source::of("github "), None);
}
