// What tests of the API share: an engine that says what it is told to, a loop and a writer without
// sockets, and a small tokenizer.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "base/utf8.h"
#include "server/engine_bridge.h"
#include "server/generation_route.h"
#include "server/http.h"
#include "server/params.h"
#include "server/prompt.h"
#include "server/server_context.h"
#include "server/server_metrics.h"
#include "text/byte_level_for_test.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace slipstream {

constexpr int32_t kImStart = 256;
constexpr int32_t kImEnd = 257;
constexpr int64_t kTestVocab = 260;

// Bytes are their own ids; 256 and 257 are ChatML's special tokens.
inline std::shared_ptr<const Tokenizer> byte_tokenizer() {
  const std::string json = byte_level_json(R"(,"<|im_start|>":256,"<|im_end|>":257)", "",
                                           R"({"id":256,"content":"<|im_start|>","special":true},)"
                                           R"({"id":257,"content":"<|im_end|>","special":true})");
  auto tokenizer = Tokenizer::from_json(json, "test");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return std::move(tokenizer).value();
}

inline ChatTemplate chatml_template() {
  auto made = ChatTemplate::create(
      "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
      "{{ '<|im_start|>' + m.role + '\\n' + (m.content or '') | trim + '<|im_end|>\\n' }}"
      "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
      "", "");
  EXPECT_TRUE(made.ok());
  return std::move(made).value();
}

// Takes requests and keeps them; tests send the events.
class ScriptedEngine final : public Engine {
 public:
  ScriptedEngine() : tokenizer_(byte_tokenizer()) {
    model_.name = "test";
    model_.family = "llama";
    model_.vocab_size = kTestVocab;
    model_.max_model_len = 1000;
    model_.bytes_per_token = 1'000'000;
    model_.device = "cpu";
    model_.executor = "eager";
  }

  Result<RequestId> submit(Request request) override {
    if (refusal) return *refusal;
    requests.push_back(std::move(request));
    return static_cast<RequestId>(requests.size());
  }
  void cancel(RequestId id) override { cancelled.push_back(id); }
  EngineStats stats() const override { return engine_stats; }
  const ModelInfo& model() const override { return model_; }
  const std::shared_ptr<const Tokenizer>& tokenizer() const override { return tokenizer_; }
  double measure_read_gb_s() override { return 10.0; }

  std::vector<Request> requests;  // the id is the place, counted from 1
  std::vector<RequestId> cancelled;
  std::optional<Status> refusal;
  EngineStats engine_stats;
  ModelInfo model_;

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
};

class FakeLoop final : public EventLoop {
 public:
  void post(std::function<void()> work) override { posted_.push_back(std::move(work)); }
  uint64_t after_ms(int64_t delay_ms, std::function<void()> work) override {
    timers_.emplace(++last_id_, std::pair(now_ms_ + delay_ms, std::move(work)));
    return last_id_;
  }
  void cancel_timer(uint64_t timer_id) override { timers_.erase(timer_id); }

  void run() {
    while (!posted_.empty()) {
      const auto work = std::move(posted_.front());
      posted_.pop_front();
      work();
    }
  }
  void advance_ms(int64_t ms) {
    now_ms_ += ms;
    std::vector<std::function<void()>> due;
    for (auto timer = timers_.begin(); timer != timers_.end();) {
      if (timer->second.first <= now_ms_) {
        due.push_back(std::move(timer->second.second));
        timer = timers_.erase(timer);
      } else {
        ++timer;
      }
    }
    for (const auto& work : due) work();
  }
  size_t num_timers() const { return timers_.size(); }

 private:
  std::deque<std::function<void()>> posted_;
  std::map<uint64_t, std::pair<int64_t, std::function<void()>>> timers_;
  int64_t now_ms_ = 0;
  uint64_t last_id_ = 0;
};

class RecordingWriter final : public ResponseWriter {
 public:
  void send(HttpResponse response) override {
    EXPECT_FALSE(answered());
    head = std::move(response);
    bytes += head->body;
    ended = true;
    on_close_ = nullptr;
  }
  void begin_stream(HttpResponse response) override {
    EXPECT_FALSE(answered());
    head = std::move(response);
    write(head->body);
  }
  void write(std::string_view text) override {
    EXPECT_FALSE(ended);
    bytes += text;
    ++num_writes;
  }
  void end() override {
    EXPECT_TRUE(head.has_value());
    ended = true;
    on_close_ = nullptr;
  }
  bool closed() const override { return closed_; }
  void on_close(std::function<void(CloseReason)> callback) override {
    on_close_ = std::move(callback);
  }

  void close(CloseReason reason) {
    closed_ = reason != CloseReason::kShutdown;
    if (auto callback = std::exchange(on_close_, nullptr)) callback(reason);
  }
  bool answered() const { return head.has_value(); }
  std::string header(const std::string& name) const {
    for (const auto& [key, value] : head->headers) {
      if (key == name) return value;
    }
    return {};
  }

  std::optional<HttpResponse> head;
  std::string bytes;
  int num_writes = 0;
  bool ended = false;

 private:
  bool closed_ = false;
  std::function<void(CloseReason)> on_close_;
};

// A server without its sockets.
class ApiFixture : public testing::Test {
 public:
  ApiFixture() : bridge(loop), chat_template(chatml_template()), table(context.limits) {
    bridge.attach(engine);
    metrics.attach({"m", &engine, 10.0});
    context.loop = &loop;
    context.bridge = &bridge;
    context.model_id = "m";
    context.model_names = {"m", "alias"};
    context.system_fingerprint = "fp";
    context.chat_template = &chat_template;
    context.metrics = &metrics;
    context.read_gb_s = 10.0;
  }

  ParamEnv param_env() const {
    return {.limits = &context.limits,
            .model = &engine.model_,
            .tokenizer = engine.tokenizer().get(),
            .model_names = &context.model_names,
            .allow_template_kwargs = context.allow_template_kwargs};
  }
  PromptEnv prompt_env() const {
    return {.limits = &context.limits,
            .model = &engine.model_,
            .tokenizer = engine.tokenizer().get(),
            .chat_template = &chat_template,
            .chat_template_error = {}};
  }

  ApiResult<PreparedCall> prepare(const Dialect& dialect, const Json& body) {
    return dialect.prepare(body, front_end(context, table));
  }

  // The text of the prompt that `body` becomes.
  std::string prompt_of(const Dialect& dialect, const Json& body) {
    ApiResult<PreparedCall> call = prepare(dialect, body);
    EXPECT_TRUE(call.ok()) << call.error().message;
    if (!call.ok()) return {};
    DecodeOptions options;
    options.skip_special = false;
    return engine.tokenizer()->decode(call->spec.prompts[0], options);
  }

  // A running call; its time is fixed, and what `edit` sets, as its id.
  std::shared_ptr<RecordingWriter> start(const Dialect& dialect, const Json& body,
                                         const std::function<void(PreparedCall&)>& edit,
                                         const ApiKey* key = nullptr) {
    auto writer = std::make_shared<RecordingWriter>();
    ApiResult<PreparedCall> call = prepare(dialect, body);
    EXPECT_TRUE(call.ok()) << call.error().message;
    if (!call.ok()) return writer;
    call->spec.created_s = 5;
    call->spec.model = "m";
    edit(call.value());
    HttpRequest http;
    http.request_id = "r";
    http.arrival_ns = 500'000;
    http.key = key;
    start_call(context, http, std::move(call->spec), std::move(call->format), writer);
    return writer;
  }

  // One step's events, delivered.
  void step(std::vector<TokenEvent> events) {
    bridge.sink()(events);
    loop.run();
  }

  static TokenEvent token(RequestId id, const std::string& text, bool first = false) {
    TokenEvent event;
    event.request = id;
    event.token_id = text.empty() ? kImEnd : static_cast<unsigned char>(text[0]);
    event.text = text;
    event.first = first;
    event.seed = 7;
    event.time_ns = 2'000'000;
    event.scheduled_ns = 1'000'000;
    return event;
  }
  static TokenEvent last(RequestId id, const std::string& text, FinishReason reason) {
    TokenEvent event = token(id, text);
    event.finish = reason;
    return event;
  }

  FakeLoop loop;
  ScriptedEngine engine;
  EngineBridge bridge;
  ServerMetrics metrics;
  ChatTemplate chat_template;
  ServerContext context;
  ParamTable table;
};

}  // namespace slipstream
