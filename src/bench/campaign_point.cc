#include "bench/campaign_point.h"

#include "bench/point_import.h"

namespace slipstream {

Json point_identity(const CampaignPlan& plan, const EngineSetup& setup, const VersionWords& version,
                    const CampaignMachine& machine, const CampaignShape& shape,
                    const CampaignLoad& load, int64_t repeat) {
  return Json{{"campaign", plan.name},
              {"engine", setup.engine},
              {"engine_version", version.version},
              {"engine_config", setup.configuration},
              {"git_commit", version.commit},
              {"model", setup.model},
              {"weights", setup.weights},
              {"dummy_weights", setup.dummy_weights ? 1 : 0},
              {"kv", setup.kv},
              {"gpu", machine.gpu},
              {"cpu", machine.cpu},
              {"num_devices", setup.num_devices},
              {"tokens_in", shape.tokens_in},
              {"tokens_out", shape.tokens_out},
              {"prefix_share", shape.prefix_share},
              {"arrival", load.arrival},
              {"request_rate", load.request_rate},
              {"concurrency", load.concurrency},
              {"repeat", repeat}};
}

Result<Json> measured_point(const Json& record, const Json& identity, const EngineSetup& setup,
                            const CampaignMachine& machine, const MeasuredExtras& extras) {
  ImportOptions options;
  options.overrides = identity;
  Json& columns = options.overrides;
  columns["server_command"] = extras.server_command;
  columns["client_command"] = extras.client_command;
  columns["cold_start_s"] = extras.cold_start_s;
  columns["config"] = record.value("config", Json::object());
  columns["config"].update(extras.config);
  if (setup.accuracy) {
    columns["accuracy_task"] = setup.accuracy_task;
    columns["accuracy"] = *setup.accuracy;
  }
  if (setup.image_bytes) columns["image_bytes"] = *setup.image_bytes;
  if (!machine.driver.empty()) columns["driver"] = machine.driver;
  if (!machine.cuda.empty()) columns["cuda"] = machine.cuda;
  if (extras.power_w_mean) {
    columns["power_w_mean"] = *extras.power_w_mean;
    const double output_tok_s = record.value("output_tok_s", 0.0);
    if (output_tok_s > 0.0) {
      columns["joules_per_output_token"] = *extras.power_w_mean / output_tok_s;
    }
  }
  SLIPSTREAM_ASSIGN_OR_RETURN(const ConvertedRecord converted, point_from_record(record, options));
  return converted.point;
}

}  // namespace slipstream
