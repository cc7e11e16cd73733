//! Wishes of the REST API on their way through the loop: given to the decision until it answers them.

use std::collections::BTreeMap;

use ha::facts::Request;
use ha::step::{Reply, RequestId};
use tokio::sync::oneshot;

/// The wishes that have no answer yet.
#[derive(Default)]
pub(crate) struct Requests {
    last_id: u64,
    waiting: BTreeMap<RequestId, (Request, oneshot::Sender<Reply>)>,
}

impl Requests {
    /// Takes in a wish; `make` gets the number that its answer will bear.
    pub(crate) fn add(&mut self, reply: oneshot::Sender<Reply>, make: impl FnOnce(RequestId) -> Request) {
        self.last_id += 1;
        let id = RequestId(self.last_id);
        self.waiting.insert(id, (make(id), reply));
    }

    /// What to tell the decision: all but the one that it has begun to fulfil.
    pub(crate) fn unanswered(&self, begun: Option<RequestId>) -> Vec<Request> {
        let untouched = self.waiting.iter().filter(|(id, _)| Some(**id) != begun);
        untouched.map(|(_, (request, _))| request.clone()).collect()
    }

    /// Hands an answer over. Who has gone away does not get it.
    pub(crate) fn answer(&mut self, reply: Reply) {
        if let Some((_, sender)) = self.waiting.remove(&reply.id) {
            let _ = sender.send(reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha::facts::RestartConditions;

    #[test]
    fn a_request_waits_for_its_answer() {
        let mut requests = Requests::default();
        let (sender, mut receiver) = oneshot::channel();
        let conditions = RestartConditions::default();
        requests.add(sender, |id| Request::Restart { id, conditions });
        let given = requests.unanswered(None);
        let [Request::Restart { id, .. }] = given[..] else {
            panic!("one restart expected, found {given:?}");
        };
        assert!(requests.unanswered(Some(id)).is_empty());
        let reply = Reply {
            id,
            is_success: true,
            text: "restarted successfully".to_owned(),
        };
        requests.answer(reply.clone());
        assert!(requests.unanswered(None).is_empty());
        assert_eq!(receiver.try_recv(), Ok(reply));
    }
}
