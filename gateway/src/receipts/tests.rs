use super::*;
use crate::money::{Picos, Tokens};

fn evidence() -> Evidence {
    Evidence {
        request_id: "req_1".to_owned(),
        org_id: "org_1".to_owned(),
        project_id: "proj_1".to_owned(),
        key_id: "key_1".to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        model: "m".to_owned(),
        tier: "default".to_owned(),
        tokens: Tokens { uncached_input: 1, cached_input: 2, output: 3 },
        price_version: "pv_1".to_owned(),
        cost: Picos(1_400_000),
        end: "finished",
        settled_at: "2026-11-24T05:46:07.000Z".to_owned(),
        request_sha256: Some([7; 32]),
        weights_sha256: None,
        refunded: Picos::ZERO,
        sequence: 2,
        previous_sha256: hex(&[1; 32]),
        row_sha256: hex(&[2; 32]),
    }
}

#[test]
fn a_receipt_is_the_same_every_time_and_bears_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::open(dir.path()).unwrap();
    let receipt = signer.sign(evidence());
    assert_eq!(receipt, Signer::open(dir.path()).unwrap().sign(evidence()));
    let key = signer.key.verifying_key();
    assert!(receipt.is_signed_by(&key));
    let text = receipt.signed_text();
    assert!(text.starts_with("spillway-receipt-1\nrequest_id req_1\norganization_id org_1\n"), "{text}");
    assert!(text.contains("\ncost_usd 0.0000014\n") && text.ends_with("\n"), "{text}");
    let changes: [fn(&mut Receipt); 5] = [
        |receipt| receipt.cost_usd = "0.0000013".to_owned(),
        |receipt| receipt.output_tokens = 2,
        |receipt| receipt.weights_sha256 = hex(&[3; 32]),
        |receipt| receipt.ledger_sequence = 3,
        |receipt| receipt.signature.replace_range(..2, "zz"),
    ];
    for change in changes {
        let mut changed = receipt.clone();
        change(&mut changed);
        assert!(!changed.is_signed_by(&key), "{changed:?}");
    }
    let other = tempfile::tempdir().unwrap();
    assert!(!receipt.is_signed_by(&Signer::open(other.path()).unwrap().key.verifying_key()));
}

#[test]
fn the_key_is_private_and_checked() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    Signer::open(dir.path()).unwrap();
    let path = dir.path().join(KEY_FILE);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    fs::write(&path, "short").unwrap();
    assert!(matches!(Signer::open(dir.path()), Err(ReceiptError::BadKey(_))));
}
