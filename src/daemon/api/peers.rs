//! Asks other members how they are, through their REST API.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ha::facts::{Peer, PeerAnswer, PeerStatus};
use net::http::Client;

/// Asks all of them at once; the answers come in the order of `peers`.
pub async fn ask(client: &Client, peers: &[Peer]) -> Vec<PeerAnswer> {
    let mut running: FuturesUnordered<_> = peers
        .iter()
        .enumerate()
        .map(|(index, peer)| async move { (index, ask_one(client, peer).await) })
        .collect();
    let mut answers: Vec<Option<PeerAnswer>> = vec![None; peers.len()];
    while let Some((index, answer)) = running.next().await {
        answers[index] = Some(answer);
    }
    answers.into_iter().flatten().collect()
}

async fn ask_one(client: &Client, peer: &Peer) -> PeerAnswer {
    let status = match client.get(&peer.api_url, peer.patience).await {
        Ok(response) => response
            .json()
            .and_then(|body| PeerStatus::from_json(&body))
            .ok_or_else(|| {
                format!(
                    "{} tells no WAL position (HTTP {})",
                    peer.api_url,
                    response.status.as_u16()
                )
            }),
        Err(error) => Err(error.to_string()),
    };
    PeerAnswer {
        name: peer.name.clone(),
        status,
    }
}
