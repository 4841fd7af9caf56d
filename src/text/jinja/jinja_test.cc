// What chat templates rely on, feature by feature, the places where Python surprises, and inputs
// made to hurt. Every expected text of expect_all was compared with what Python's jinja2 3.1.6
// gives under Hugging Face's settings.
#include "text/jinja/jinja.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace slipstream::jinja {
namespace {

Json variables() {
  return Json::parse(R"({
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
    "d": {"b": 1, "A": "x", "items": 3, "f": 1.0, "n": null, "t": true},
    "s": " \u00a0\u3000ab\u2028 ", "h": "<b>&é", "e": "a\u0301\ud83d\udc4d"})");
}

RenderResult render(std::string_view source, RenderOptions options = {}) {
  auto compiled = Template::parse(source);
  if (!compiled.ok()) {
    RenderResult result;
    result.error = Error{ErrorKind::kSyntaxError, compiled.status().message(), 0};
    return result;
  }
  return compiled->render(variables(), options);
}

std::string str_error(const Error& error) {
  return std::string(error_kind_name(error.kind)) + ": " + error.message;
}

std::string text(std::string_view source) {
  const RenderResult result = render(source);
  return result.ok() ? result.text : str_error(*result.error);
}

struct Case {
  const char* source;
  const char* expected;
};

void expect_all(std::initializer_list<Case> cases) {
  for (const Case& test : cases) EXPECT_EQ(text(test.source), test.expected) << test.source;
}

TEST(JinjaWhitespace, TrimAndLstripBlocksAsHuggingFaceSetsThem) {
  expect_all({{"a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"},
              {"a \n {%- if true -%} \n b {%- endif %}", "ab"},
              {"  {%+ if true %}x{% endif +%}\ny", "  x\ny"},
              {"x {{- ' y ' -}} z", "x y z"},
              {"a {# note #}\nb", "a b"},
              {"a\r\nb\rc", "a\nb\nc"},
              {"{% raw %}{{ x }}{% endraw %}", "{{ x }}"}});
}

TEST(JinjaStatements, LoopsSetsMacrosAndBlocks) {
  expect_all(
      {{"{% for i in range(5) if i != 2 %}{{ loop.index0 }}{{ i }}{{ loop.last }} {% endfor %}",
        "00False 11False 23False 34True "},
       {"{% for i in [] %}x{% else %}none{% endfor %}", "none"},
       {"{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }},{% endfor %}", "3,7,"},
       {"{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
        "{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "02"},
       {"{% for i in [1, 2] %}{{ loop.previtem }}-{{ loop.nextitem }};{% endfor %}", "-2;1-;"},
       {"{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}", "1"},
       {"{% set ns = namespace(x=1) %}{% for i in [1] %}{% set ns.x = 2 %}{% endfor %}{{ ns.x }}",
        "2"},
       {"{% set x %}a{{ 1 }}{% endset %}{{ x|upper }}", "A1"},
       {"{% set a, b = 1, 2 %}{{ b }}{{ a }}", "21"},
       {"{% macro m(a, b='z') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(b=2, a=3) }}", "1z32"},
       {"{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
        "3210"},
       {"{% macro m() %}<{{ caller(1) }}>{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}",
        "<1>"},
       {"{% filter upper %}a{% endfilter %}{% generation %}g{% endgeneration %}", "Ag"},
       {"{% for x in [[1, [2]]] recursive %}{% if x is sequence %}[{{ loop(x) }}]{% else %}{{ x }}"
        "{% endif %}{% endfor %}",
        "[1[2]]"},
       {"{% if false %}a{% elif d %}b{% else %}c{% endif %}", "b"}});
}

TEST(JinjaExpressions, OperatorsAndSubscripts) {
  expect_all(
      {{"{{ (1 + 2 * 3 % 2) ~ 'x' }}", "1x"},
       {"{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 }}", "3 -4 2 3.5 8"},
       {"{{ 1 < 2 < 3 }} {{ 'a' not in 'abc' }} {{ not 0 }}", "True False True"},
       {"{{ 'a' if false }}|{{ 1 if 0 else 2 }}", "|2"},
       {"{{ 'abc'[::-1] }}{{ 'abc'[-1] }}{{ [1, 2, 3][1:] }}{{ 'abc'[:2] }}", "cbac[2, 3]ab"},
       {"{{ e|length }}{{ e[-1] }}", "3👍"},
       {"{{ d.b }}{{ d['A'] }}{{ messages[0].role }}{{ messages[-1]['content'] }}", "1xuseryo"},
       {"{{ '\\x41\\u00e9\\n\\q' 'b' }}", "Aé\n\\qb"},
       {"{{ {'a': {}}['a'] }}{{ (1,) }}{{ () }}", "{}(1,)()"}});
}

TEST(JinjaFilters, TextSequencesAndJson) {
  expect_all(
      {{"{{ s|trim }}|{{ s.strip() }}", "ab|ab"},
       {"{{ d|tojson }}",
        "{\"b\": 1, \"A\": \"x\", \"items\": 3, \"f\": 1.0, \"n\": null, \"t\": true}"},
       {"{{ [h]|tojson }}{{ 'é'|tojson(ensure_ascii=true) }}", "[\"<b>&é\"]\"\\u00e9\""},
       {"{{ {'a': [1]}|tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ]\n}"},
       {"{{ messages|map(attribute='role')|join(',') }}", "user,assistant"},
       {"{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", "1"},
       {"{{ none|selectattr('x')|list }}", "[]"},
       {"{% for k, v in d|dictsort %}{{ k }}{% endfor %}", "Abfitemsnt"},
       {"{{ missing|default('x') }}{{ ''|default('y', true) }}", "xy"},
       {"{{ 'a\nb\n'|indent(2) }}|", "a\n  b\n|"},
       {"{{ [3, 1, 3]|unique|sort|list }}{{ [2, 1]|min }}{{ 'aB'|capitalize }}", "[1, 3]1Ab"},
       {"{{ '%s-%03d' % ('a', 7) }}{{ '%s'|format(1) }}{{ '{}{x:>3}'.format(1, x=2) }}",
        "a-00711  2"},
       {"{{ '3'|int + 1 }}{{ 'x'|int }}{{ 'a b'.split() }}", "40['a', 'b']"}});
}

TEST(JinjaTraps, PythonReprOfValues) {
  expect_all({{"{{ d }}", "{'b': 1, 'A': 'x', 'items': 3, 'f': 1.0, 'n': None, 't': True}"},
              {"{{ [1.0, 1e20, 1e-5, 0.1] }}", "[1.0, 1e+20, 1e-05, 0.1]"},
              {"{{ [\"it's\", '\"\\n', '\u00a0é'] }}", "[\"it's\", '\"\\n', '\\xa0é']"}});
}

TEST(JinjaTraps, MarkupEscapesWhatIsAddedButNotWhatIsJoined) {
  expect_all({{"{{ '<i>'|safe + h }}", "<i>&lt;b&gt;&amp;é"},
              {"{{ h + '<i>'|safe }}", "&lt;b&gt;&amp;é<i>"},
              {"{{ '<i>'|safe ~ h }}", "<i><b>&é"}});
}

TEST(JinjaTraps, AttributesPreferMethodsAndItemsPreferKeys) {
  expect_all({{"{{ d['items'] }}{{ d.items()|list|length }}", "36"}});
}

TEST(JinjaTraps, UndefinedPrintsEmptyButCannotBeUsed) {
  expect_all({{"[{{ x }}{% for i in x %}{% endfor %}{{ x is defined }}{{ x|length }}]", "[False0]"},
              {"{{ x.y }}", "UndefinedError: 'x' is undefined"},
              {"{{ 'a' + x }}", "UndefinedError: 'x' is undefined"},
              {"{{ d.zz.y }}", "UndefinedError: 'dict object' has no attribute 'zz'"},
              {"{{ none[0].x }}", "UndefinedError: None has no element 0"}});
}

TEST(JinjaTraps, ErrorsCarryPythonsKindAndMessage) {
  expect_all({{"{{ raise_exception('no') }}", "TemplateError: no"},
              {"{{ 'a' + [] }}", "TypeError: can only concatenate str (not \"list\") to str"},
              {"{% for x in none %}{% endfor %}", "TypeError: 'NoneType' object is not iterable"},
              {"{{ messages|map(attribute='role')|tojson }}",
               "TypeError: Object of type generator is not JSON serializable"},
              {"{% if true %}{{ 1|nope }}{% endif %}",
               "TemplateRuntimeError: No filter named 'nope' found."}});
}

TEST(JinjaSandbox, RefusesToChangeDataAndToReachInternals) {
  for (const char* source : {"{{ messages.append(1) }}", "{{ d.pop('b') }}", "{{ d.update({}) }}",
                             "{{ ''.__class__.__mro__ }}"}) {
    const RenderResult result = render(source);
    ASSERT_FALSE(result.ok()) << source;
    EXPECT_EQ(result.error->kind, ErrorKind::kSecurityError) << source;
  }
}

TEST(JinjaParse, RejectsWhatCouldNeverRender) {
  for (const char* source :
       {"{{ 1|nope }}", "{{ 1 is nope }}", "{% include 'x' %}", "{% wat %}", "{% if 1 %}", "{{ 1",
        "{{ ) }}", "{{ (1] }}", "{# x", "{% break %}", "{% raw %}", "{{ 'a }}", "{{ $ }}"}) {
    EXPECT_FALSE(Template::parse(source).ok()) << source;
  }
}

std::string repeated(const std::string& piece, int count) {
  std::string out;
  for (int k = 0; k < count; ++k) out += piece;
  return out;
}

TEST(JinjaHostile, DeepNestingIsRefusedAtParse) {
  EXPECT_FALSE(
      Template::parse("{{ " + repeated("(", 6000) + "1" + repeated(")", 6000) + " }}").ok());
  EXPECT_FALSE(
      Template::parse(repeated("{% if 1 %}", 50000) + repeated("{% endif %}", 50000)).ok());
  EXPECT_FALSE(Template::parse("{{ " + repeated("not ", 6000) + "1 }}").ok());
  EXPECT_FALSE(Template::parse("{{ 1" + repeated(" + 1", 6000) + " }}").ok());
  EXPECT_FALSE(Template::parse("{{ x" + repeated(".x", 6000) + " }}").ok());
}

TEST(JinjaHostile, RunawaysEndWithAnError) {
  const char* const kLoop = "{% for i in range(100000) %}";
  const std::string sources[] = {
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{{ range(10**9) }}",
      "{{ 'x' * 10**9 }}",
      "{{ [0] * 10**9 }}",
      "{{ 10 ** 100 }}",
      "{{ 'x'.center(10**12) }}{{ '%999999999d' % 1 }}",
      "{{ '{:999999999}'.format(1) }}",
      "{{ 'a'|indent(10**10, true) }}",
      std::string("{% set ns = namespace(s='x') %}") + kLoop +
          "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
      std::string("{% set ns = namespace(s='xx') %}") + kLoop +
          "{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}",
      std::string("{% set ns = namespace(l=[]) %}") + kLoop +
          "{% set ns.l = [ns.l, ns.l] %}{% endfor %}",
      std::string("{% set ns = namespace(l=['x']) %}") + kLoop +
          "{% set ns.l = ns.l + ns.l|join|list %}{% endfor %}",
      std::string("{% set s = '1' * 1000000 %}") + kLoop + "{{ s|int }}{% endfor %}",
      std::string("{% set s = 'a' * 1000000 %}") + kLoop + "{{ {s: 1}[s] }}{% endfor %}",
      std::string("{% set t = ('a' * 1000000,) * 100000 %}") + kLoop + "{{ {t: 1} }}{% endfor %}",
      std::string(kLoop) + kLoop + kLoop + "{% endfor %}{% endfor %}{% endfor %}",
  };
  for (const std::string& source : sources) EXPECT_FALSE(render(source).ok()) << source;
}

TEST(JinjaHostile, ValuesThatHoldThemselvesAreFreedAndPrint) {
  EXPECT_TRUE(render("{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}").ok());
}

TEST(JinjaLimits, OutputStepsAndDepthEndARender) {
  RenderOptions options;
  options.limits.max_output_bytes = 3;
  EXPECT_EQ(render("abcd", options).error->kind, ErrorKind::kLimitError);
  options = {};
  options.limits.max_steps = 100;
  EXPECT_EQ(render("{% for i in range(200) %}{{ i }}{% endfor %}", options).error->kind,
            ErrorKind::kLimitError);
}

TEST(JinjaLimits, LargerVariablesPayForMoreWork) {
  const Json many = {{"items", Json(std::vector<int>(1000, 7))}};
  RenderOptions options;
  options.limits.max_steps = 100;
  auto once = Template::parse("{% for i in items %}{{ i }}{% endfor %}");
  ASSERT_TRUE(once.ok());
  EXPECT_TRUE(once->render(many, options).ok());
  auto nested = Template::parse("{% for i in items %}{% for k in items %}{% endfor %}{% endfor %}");
  ASSERT_TRUE(nested.ok());
  EXPECT_FALSE(nested->render(many, options).ok());
}

TEST(JinjaTemplate, ThreadsShareOneTemplate) {
  auto compiled = Template::parse("{% for m in messages %}{{ m.role ~ 'x' }}{% endfor %}");
  ASSERT_TRUE(compiled.ok());
  std::vector<std::string> results(4);
  std::vector<std::thread> threads;
  for (std::string& result : results) {
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) result = compiled->render(variables()).text;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& result : results) EXPECT_EQ(result, "userxassistantx");
}

}  // namespace
}  // namespace slipstream::jinja
