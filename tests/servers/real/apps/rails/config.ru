require "rails"
require "action_controller/railtie"

class Site < Rails::Application
  config.eager_load = true
  config.secret_key_base = "x" * 40
  config.hosts.clear
  config.logger = Logger.new(nil)
  routes.append do
    root to: "answers#now"
    get "slow", to: "answers#slow"
  end
end

class AnswersController < ActionController::Base
  def now = render(plain: "generation #{ENV["HOTSWAP_GENERATION"]}\n")

  def slow
    sleep 0.2
    now
  end
end

Site.initialize!
run Site
