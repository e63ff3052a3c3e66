//! On a GPU, `sample` lets the device go one step ahead. Nobody may notice: whatever follows, the session is where the
//! caller left it.

mod common;

use common::{load, repository, On, WHOLE};
use mamba_wgpu::generate::SamplingParams;
use mamba_wgpu::model::{Checkpoint, LanguageModel, Scan, Session, StateData};
use pollster::block_on;

const PROMPT: [u32; 5] = [5, 17, 2, 30, 8];

async fn model(on: On) -> LanguageModel {
    let checkpoint = Checkpoint::open(&repository("tests/golden/checkpoints/bf16")).unwrap();
    load(&checkpoint, &on.open().await, Scan::Fused, WHOLE).await
}

/// After the prompt; `sampled`: after a token was drawn and not fed.
async fn session(model: &LanguageModel, sampled: bool) -> (Session, Option<u32>) {
    let mut session = model.session().unwrap();
    session.prefill(&PROMPT, &mut |_, _| {}).await.unwrap();
    session.begin_sampling(&SamplingParams::default(), &[]).unwrap();
    let token = if sampled { Some(session.sample().await.unwrap()) } else { None };
    (session, token)
}

async fn outcome(mut session: Session) -> (Vec<f32>, StateData) {
    (session.logits().await.unwrap(), session.state().await.unwrap())
}

#[test]
fn whatever_follows_a_sample_goes_on_from_before_it() {
    block_on(async {
        for on in [On::Cpu, On::Gpu] {
            let model = model(on).await;
            let plain = outcome(session(&model, false).await.0).await;

            // Looking: logits and state are those before the drawn token.
            let (drawn, token) = session(&model, true).await;
            assert_eq!(outcome(drawn).await, plain, "{on:?}: logits and state");
            let (drawn, _) = session(&model, true).await;
            assert_eq!(outcome(drawn.try_clone().unwrap()).await, plain, "{on:?}: a clone");
            let (mut again, first) = session(&model, true).await;
            assert_eq!(again.sample().await.ok(), first, "{on:?}: drawn again from the same logits");

            // Feeding the drawn token, another one, or a text.
            let token = token.unwrap();
            let other = if token == 3 { 4 } else { 3 };
            for fed in [token, other] {
                let (mut a, _) = session(&model, false).await;
                a.step(fed).await.unwrap();
                let (mut b, _) = session(&model, true).await;
                b.step(fed).await.unwrap();
                assert_eq!(outcome(a).await, outcome(b).await, "{on:?}: fed {fed}, drawn {token}");
            }
            let (mut a, _) = session(&model, false).await;
            let (mut b, _) = session(&model, true).await;
            for s in [&mut a, &mut b] {
                s.prefill(&[9, 9, 1], &mut |_, _| {}).await.unwrap();
            }
            assert_eq!(outcome(a).await, outcome(b).await, "{on:?}: prefilled");

            // Starting over.
            let (mut s, _) = session(&model, true).await;
            s.reset();
            s.prefill(&PROMPT, &mut |_, _| {}).await.unwrap();
            assert_eq!(outcome(s).await, plain, "{on:?}: reset");
            let (mut s, _) = session(&model, true).await;
            s.set_state(&plain.1).unwrap();
            assert_eq!(s.state().await.unwrap(), plain.1, "{on:?}: another state");
        }
    });
}
