#include "server/http_parser.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace slipstream {
namespace {

// Offers `bytes` in pieces of `piece` bytes, as a connection does: what is not taken comes again.
HttpParser parse(const std::string& bytes, size_t piece = SIZE_MAX, HttpParserLimits limits = {}) {
  HttpParser parser(limits);
  std::string waiting;
  for (size_t at = 0; at < bytes.size(); at += std::min(piece, bytes.size() - at)) {
    waiting += bytes.substr(at, piece);
    for (;;) {
      const size_t used = parser.feed(waiting);
      waiting.erase(0, used);
      if (used == 0 || waiting.empty()) break;
    }
  }
  return parser;
}

int status_of(const std::string& bytes, HttpParserLimits limits = {}) {
  const HttpParser parser = parse(bytes, SIZE_MAX, limits);
  if (parser.state() == HttpParser::State::kDone) return 200;
  return parser.state() == HttpParser::State::kFailed ? parser.error().status : 0;
}

const std::string kHost = "Host: test\r\n";

TEST(HttpParser, ARequestIsTheSameHoweverItsBytesArrive) {
  const std::string bytes =
      "POST /v1/x?a=1&b HTTP/1.1\r\nHost: test:80\r\nX-Thing:  some value \r\n"
      "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nTrailer: "
      "t\r\n\r\n";
  for (const size_t piece : {size_t{1}, size_t{2}, size_t{7}, SIZE_MAX}) {
    HttpParser parser = parse(bytes, piece);
    ASSERT_EQ(parser.state(), HttpParser::State::kDone) << piece;
    EXPECT_EQ(parser.request().method, "POST");
    EXPECT_EQ(parser.request().path, "/v1/x");
    EXPECT_EQ(parser.request().query, "a=1&b");
    EXPECT_EQ(parser.request().header("x-thing"), "some value");
    EXPECT_EQ(parser.request().header("trailer"), "");
    EXPECT_EQ(parser.request().body, "hello world");
    EXPECT_TRUE(parser.keep_alive());
  }
}

TEST(HttpParser, BytesBehindARequestAreLeftForTheNext) {
  const std::string first = "GET /a HTTP/1.1\r\n" + kHost + "\r\n";
  HttpParser parser({});
  EXPECT_EQ(parser.feed(first + "GET /b"), first.size());
  EXPECT_EQ(parser.state(), HttpParser::State::kDone);
  HttpParser with_body({});
  const std::string head = "POST /a HTTP/1.1\r\n" + kHost + "Content-Length: 3\r\n\r\n";
  EXPECT_EQ(with_body.feed(head + "abcGET"), head.size());
  EXPECT_EQ(with_body.body_bytes_left(), 3);
  EXPECT_EQ(with_body.feed("abcGET"), 3u);
  EXPECT_EQ(with_body.state(), HttpParser::State::kDone);
}

TEST(HttpParser, H1_ABodyBeyondTheLimitIsRefusedAtItsLengthOrAtTheChunkThatPassesIt) {
  HttpParserLimits limits;
  limits.max_body_bytes = 10;
  const std::string post = "POST / HTTP/1.1\r\n" + kHost;
  EXPECT_EQ(status_of(post + "Content-Length: 10\r\n\r\n0123456789", limits), 200);
  EXPECT_EQ(status_of(post + "Content-Length: 11\r\n\r\n", limits), 413);
  EXPECT_EQ(status_of(post + "Content-Length: 18446744073709551615\r\n\r\n", limits), 413);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n", limits), 413);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", limits),
            413);
}

TEST(HttpParser, H2_ChunkSizesThatAreNoHexNumbersOfThisSizeAreRefused) {
  const std::string head = "POST / HTTP/1.1\r\n" + kHost + "Transfer-Encoding: chunked\r\n\r\n";
  for (const char* chunk :
       {"-2\r\nab\r\n", "0x2\r\nab\r\n", "10000000000000000\r\n", "\r\n", "g\r\n", " 2\r\nab\r\n",
        "2 x\r\nab\r\n", "2\nab\r\n", "2\r\nabc\r\n", "+2\r\nab\r\n"}) {
    EXPECT_EQ(status_of(head + chunk + "0\r\n\r\n"), 400) << chunk;
  }
  EXPECT_EQ(status_of(head + "2\r\nab\r\n"), 0) << "no last chunk: more is awaited";
  EXPECT_EQ(status_of(head + "2;" + std::string(70'000, 'x')), 400) << "endless extension";
}

TEST(HttpParser, H2_ChunkHeadersAndTrailersMeanTheSameHoweverTheyArrive) {
  const std::string head = "POST /a HTTP/1.1\r\n" + kHost + "Transfer-Encoding: chunked\r\n\r\n";
  const std::vector<std::pair<std::string, int>> cases = {
      {"5;a=\"b\"\r\nhello\r\n0\r\n\r\n", 200},
      {"5;a=\"\r\nhello\r\n0\r\n\r\n", 400},
      {"5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n", 400},
      {"5\r\nhello\r\n0;a=\"\r\n\r\n", 400},
      {"5\r\nhelloXX0\r\n\r\n", 400},
      {"5\nhello\r\n0\r\n\r\n", 400},
      {"0\r\n\x0f\n\r\n\r\n", 400},
      {"0\r\nTrailer: \"t\"\r\n\r\n", 200},
  };
  for (const auto& [chunks, status] : cases) {
    for (const size_t piece : {size_t{1}, size_t{2}, size_t{7}, SIZE_MAX}) {
      const HttpParser parser = parse(head + chunks, piece);
      ASSERT_EQ(parser.state(),
                status == 200 ? HttpParser::State::kDone : HttpParser::State::kFailed)
          << piece << ": " << chunks;
      if (status != 200) {
        EXPECT_EQ(parser.error().status, status);
      }
    }
  }
}

TEST(HttpParser, H3_WhateverTwoParsersCouldReadDifferentlyIsRefused) {
  const std::string get = "GET / HTTP/1.1\r\n";
  const std::vector<std::string> hostile = {
      get + kHost + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
      get + kHost + "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
      get + kHost + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
      get + kHost + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
      get + kHost + "Content-Length: 1, 1\r\n\r\n",
      get + kHost + "Content-Length: +1\r\n\r\n",
      get + kHost + "Content-Length: -1\r\n\r\n",
      get + kHost + "Content-Length: 0x1\r\n\r\n",
      get + kHost + "Content-Length:\r\n\r\n",
      get + kHost + "Content-Length: 18446744073709551616\r\n\r\n",
      get + kHost + "Transfer-Encoding: gzip\r\n\r\n",
      get + kHost + "Transfer-Encoding: gzip, chunked\r\n\r\n",
      get + kHost + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
      get + kHost + "Transfer-Encoding: xchunked\r\n\r\n",
      "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
      get + kHost + "X: a\r\n b\r\n\r\n",
      get + kHost + "X: a\r\n\tb\r\n\r\n",
      get + " X: a\r\n" + kHost + "\r\n",
      "GET / HTTP/1.1\nHost: test\n\n",
      get + "Host: test\n\r\n",
      get + kHost + "X: a\rb\r\n\r\n",
      get + kHost + "X: a\nb\r\n\r\n",
      get + kHost + std::string("X: a\0b\r\n\r\n", 10),
      get + kHost + "X : a\r\n\r\n",
      get + kHost + ": a\r\n\r\n",
      get + kHost + "novalue\r\n\r\n",
      get + kHost + "X\x01: a\r\n\r\n",
      "GET  / HTTP/1.1\r\n" + kHost + "\r\n",
      "GET /\tHTTP/1.1\r\n" + kHost + "\r\n",
      "GET / a HTTP/1.1\r\n" + kHost + "\r\n",
      "GET /\xff HTTP/1.1\r\n" + kHost + "\r\n",
      "GET /a#b HTTP/1.1\r\n" + kHost + "\r\n",
      "GET http://test/ HTTP/1.1\r\n" + kHost + "\r\n",
      "CONNECT test:80 HTTP/1.1\r\n" + kHost + "\r\n",
      "\r\nGET / HTTP/1.1\r\n" + kHost + "\r\n",
      "G\x80T / HTTP/1.1\r\n" + kHost + "\r\n",
      "GET / HTTP/1.1 \r\n" + kHost + "\r\n",
      "GET / http/1.1\r\n" + kHost + "\r\n",
      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
  };
  for (const std::string& bytes : hostile) {
    for (const size_t piece : {size_t{1}, SIZE_MAX}) {
      const HttpParser parser = parse(bytes, piece);
      ASSERT_EQ(parser.state(), HttpParser::State::kFailed) << bytes;
      EXPECT_TRUE(parser.error().status == 400 || parser.error().status == 505) << bytes;
      EXPECT_EQ(parser.error().message.find('\n'), std::string::npos) << bytes;
    }
  }
  EXPECT_EQ(status_of("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
}

TEST(HttpParser, H4_TheHostIsGivenOnceAndIsAHost) {
  const auto with_host = [](const std::string& host) {
    return status_of("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n");
  };
  for (const char* host : {"test", "test:8000", "127.0.0.1:1", "[::1]", "[::1]:80", "a_b.c-d"}) {
    EXPECT_EQ(with_host(host), 200) << host;
  }
  for (const char* host : {"", "a/?x=", "x/docs?", "a b", "user@a", "a:", "a:b", "a:123456", ":80",
                           "[::1", "[]", "[::1]x", "a,b", "%61"}) {
    EXPECT_EQ(with_host(host), 400) << host;
  }
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/1.0\r\n\r\n"), 200);
}

TEST(HttpParser, H14_LongUrlsAndManyHeadersHaveTheirOwnStatusAndEndEarly) {
  const HttpParserLimits limits;
  EXPECT_EQ(status_of("GET /" + std::string(8000, 'a') + " HTTP/1.1\r\n" + kHost + "\r\n"), 200);
  EXPECT_EQ(status_of("GET /" + std::string(1 << 20, 'a')), 414);
  std::string many = "GET / HTTP/1.1\r\n" + kHost;
  for (int i = 0; i < 100'000; ++i) many += "a: b\r\n";
  EXPECT_EQ(status_of(many), 431);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\n" + kHost + "X: " + std::string(1 << 20, 'a')), 431);
  HttpParser parser(limits);
  EXPECT_EQ(parser.feed(std::string(1 << 20, 'a')), 0u);
  EXPECT_EQ(parser.state(), HttpParser::State::kFailed);
}

TEST(HttpParser, OnlyTheExpectationOfContinueIsMet) {
  const std::string head = "POST / HTTP/1.1\r\n" + kHost + "Content-Length: 1\r\n";
  const HttpParser parser = parse(head + "Expect: 100-Continue\r\n\r\n");
  EXPECT_EQ(parser.state(), HttpParser::State::kBody);
  EXPECT_TRUE(parser.expects_continue());
  EXPECT_EQ(status_of(head + "Expect: tea\r\n\r\n"), 417);
}

TEST(HttpParser, ADiscardedBodyIsReadOverButNotKept) {
  HttpParser parser({});
  parser.feed("POST / HTTP/1.1\r\n" + kHost + "Content-Length: 3\r\n\r\n");
  parser.discard_body();
  parser.feed("abc");
  EXPECT_EQ(parser.state(), HttpParser::State::kDone);
  EXPECT_EQ(parser.request().body, "");
}

}  // namespace
}  // namespace slipstream
