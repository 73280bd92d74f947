package serverscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/serverscraper"

import (
	"time"

	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/serverscraper/internal/metadata"
)

// Config is the section scrapers::server.
type Config struct {
	ControllerConfig     scraperhelper.ControllerConfig `mapstructure:",squash"`
	MetricsBuilderConfig metadata.MetricsBuilderConfig  `mapstructure:",squash"`
}

// NewDefaultConfig returns the section as it is when left empty.
func NewDefaultConfig() Config {
	c := scraperhelper.NewDefaultControllerConfig()
	c.CollectionInterval = time.Second
	c.InitialDelay = 0
	return Config{ControllerConfig: c, MetricsBuilderConfig: metadata.NewDefaultMetricsBuilderConfig()}
}
