//! Challenges and token servers' answers, of honest ones and of any bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use reqwest::header::HeaderValue;

use super::*;

fn read(headers: &[&str]) -> Result<Option<Challenge>, RequestError> {
    let mut map = HeaderMap::new();
    for header in headers {
        map.append(WWW_AUTHENTICATE, HeaderValue::from_str(header).unwrap());
    }
    Challenge::read(&map)
}

#[test]
fn challenges_are_read_as_registries_write_them() {
    let bearer = |realm: &str, service: Option<&str>| {
        Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
    };
    assert_eq!(read(&[]).unwrap(), None);
    assert_eq!(read(&["Basic realm=\"r\""]).unwrap(), Some(Challenge::Basic));
    assert_eq!(
        read(&["bearer realm=\"https://a/token\",Service=\"s, \\\"t\\\"\",scope=\"repository:x:pull,push\""])
            .unwrap(),
        bearer("https://a/token", Some("s, \"t\""))
    );
    // A token is preferred, in whatever order and in however many headers the ways come.
    let both = bearer("https://a", None);
    assert_eq!(read(&["Basic realm=\"r\", Bearer realm=\"https://a\""]).unwrap(), both);
    assert_eq!(read(&["Basic realm=\"r\"", "Bearer realm=\"https://a\""]).unwrap(), both);
    assert_eq!(read(&["Bearer service=\"s\"", "Basic realm=\"r\""]).unwrap(), Some(Challenge::Basic));
    for unusable in ["Negotiate", "Bearer service=\"s\"", "Bearer realm=\"https://a", "\"", ""] {
        assert!(matches!(read(&[unusable]), Err(RequestError::Challenge)), "{unusable}");
    }
}

#[test]
fn tokens_are_read_under_both_names() {
    let token = |reply: &str| read_token(reply.as_bytes()).ok();
    assert_eq!(token(r#"{"token":"a","expires_in":300}"#).as_deref(), Some("a"));
    assert_eq!(token(r#"{"access_token":"b","refresh_token":"r"}"#).as_deref(), Some("b"));
    assert_eq!(token(r#"{"access_token":"","token":"c"}"#).as_deref(), Some("c"));
    for bad in [r"{}", r"[]", "", r#"{"token":""}"#, r#"{"token":7}"#, r#"{"token":"a\r\nHost: b"}"#] {
        assert_eq!(token(bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn any_challenge_is_survived(text in "[ -~]{0,80}", scheme in "(Bearer|Basic|) ?") {
        let _ = read(&[&format!("{scheme}{text}")]);
    }

    #[test]
    fn any_reply_is_survived_and_what_it_gives_fits_a_header(
        token in ".{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..80)
    ) {
        let _ = read_token(&bytes);
        let reply = serde_json::json!({ "token": token }).to_string();
        if let Ok(token) = read_token(reply.as_bytes()) {
            let header = HeaderValue::try_from(format!("Bearer {token}"));
            prop_assert!(header.is_ok());
        }
    }
}
